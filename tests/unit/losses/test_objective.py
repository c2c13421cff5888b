"""The table of objectives: what each asks of model and batch follows from its switches."""

import pytest

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig, TeacherAdvantageConfig
from nemo_cascade.config.stages.preference_loss import PreferenceLossConfig
from nemo_cascade.losses.objective import (
    BradleyTerry,
    LossSpec,
    PolicyLoss,
    Preference,
    Regression,
    SftLoss,
    loss_spec,
)


def test_supervised_and_pair_losses_need_nothing_but_their_labels():
    assert loss_spec(SftLoss()) == LossSpec("token")
    assert loss_spec(BradleyTerry()) == LossSpec("pair", head="score")


def test_further_tensors_are_asked_for_where_a_form_reads_them():
    assert loss_spec(BradleyTerry("scaled")).extras == {"strength"}
    assert loss_spec(Regression((("a", 0.5), ("b", 0.0)))) == LossSpec("rating", "score", {"rating_a", "rating_b"})
    assert loss_spec(Preference(PreferenceLossConfig())) == LossSpec("pair", extras={"reference_logprobs"})
    for reads in ({"form": "rpo_bwd_kl"}, {"margin": True}):
        assert loss_spec(Preference(PreferenceLossConfig(**reads))).extras == {"reference_logprobs", "rewards"}


@pytest.mark.parametrize(
    ("switches", "unit", "extras", "reference"),
    [
        ({}, "token", set(), False),
        ({"aggregation": "sequence"}, "sequence", {"sequence_weights"}, False),
        ({"correction": "truncated"}, "token", {"behaviour_logprobs"}, False),
        ({"kl_coefficient": 0.1}, "token", {"reference_logprobs"}, True),
        ({"kl_coefficient": 0.1, "kl_correction": True}, "token", {"reference_logprobs", "behaviour_logprobs"}, True),
    ],
)
def test_a_policy_loss_asks_for_what_its_switches_read(switches, unit, extras, reference):
    spec = loss_spec(PolicyLoss(PolicyLossConfig(**switches)))
    assert (spec.unit, spec.head, spec.reference) == (unit, "lm", reference)
    assert spec.extras == extras | {"advantages"}


@pytest.mark.parametrize(("student", "further"), [("current", set()), ("previous", {"previous_logprobs"})])
def test_a_teachers_word_stands_in_for_given_advantages(student, further):
    spec = loss_spec(PolicyLoss(PolicyLossConfig(), teacher=TeacherAdvantageConfig(student=student)))
    assert spec.extras == {"teacher_logprobs"} | further
    assert not spec.reference
