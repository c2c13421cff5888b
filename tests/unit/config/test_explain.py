"""Every key can be explained, and says where its value came from."""

import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.explain import explain
from nemo_cascade.config.reading.keys import leaves
from nemo_cascade.errors import CascadeError
from nemo_cascade.stages.kinds import KINDS


def test_every_key_of_the_schema_has_a_meaning():
    assert [leaf.key for leaf in leaves() if not leaf.meaning] == []


def test_a_quantity_is_explained_with_unit_bounds_default_and_origin():
    config, provenance = compose(["cascade=nano", "reward.deadline_s=3"])
    (answer,) = explain("reward.deadline_s", config, provenance["origins"])
    assert answer.unit == "seconds"
    assert (answer.type, answer.default, answer.value) == ("float > 0", "10.0", "3.0")
    assert answer.origin == "command line: reward.deadline_s=3"
    assert "verdict" in answer.meaning
    (answer,) = explain("stages.math_rl.optimizer.lr", config, provenance["origins"])
    assert answer.origin.startswith("conf/cascade/nano.yaml:")
    assert answer.default == "none, must be given"


def test_without_a_run_any_stage_name_stands_for_all_kinds():
    kinds = {field.default for field in explain("stages.anything.kind")}
    assert kinds == KINDS.keys()
    assert any("kl_coefficient" in dict(block.fields) for block in explain("stages.anything.loss"))
    with pytest.raises(CascadeError, match=r"did you mean stages.anything.loss.kl_coefficient\?"):
        explain("stages.anything.loss.kl_coeficient")


def test_a_choice_is_told_by_the_key_that_it_is_one_of():
    with pytest.raises(CascadeError) as refused:
        explain("continuous")
    assert refused.value.mend == "it is a value of stages.NAME.generation.mode: explain that"
    with pytest.raises(CascadeError) as refused:
        explain("nothing_like_it")
    assert "take one of these" in refused.value.mend


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model.hiden_size", "model.architecture.hidden_size"),
        ("stages.math_rl.lr", "stages.math_rl.optimizer.lr"),
        ("max_model_len", "rollout.max_model_len"),
    ],
)
def test_a_key_is_found_by_its_last_name_wherever_it_is_nested(key, meant):
    config, _ = compose(["cascade=nano"])
    with pytest.raises(CascadeError) as refused:
        explain(key, config)
    assert refused.value.mend == f"did you mean {meant}?"
