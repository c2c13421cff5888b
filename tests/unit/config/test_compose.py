"""Composition: Hydra's groups and grammar in, a typed configuration or every violation at once out."""

import hydra
import pytest
from omegaconf import OmegaConf

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.provenance import config_values
from nemo_cascade.config.reading.shipped import SHIPPED_CONF
from nemo_cascade.errors import ConfigError


def violations(*overrides, **kwargs):
    with pytest.raises(ConfigError) as caught:
        compose(overrides, **kwargs)
    return caught.value.violations


def test_a_cascade_fills_its_stages_from_their_families_in_order():
    config, _ = compose(["cascade=nano"])
    assert list(config.stages) == ["sft1", "sft2", "reward_model", "rlhf", "if_rl", "math_rl", "code_rl", "swe_rl"]
    assert [stage.kind for stage in config.stages.values()] == ["sft", "sft", "reward_model"] + ["grpo"] * 5
    rl = config.stages["math_rl"]
    assert rl.num_generations == 8  # of the family
    assert rl.tasks["math"].path == "runs/data/nano/math_train.jsonl"  # of the cascade, interpolated


def test_command_line_wins_over_files_and_needs_no_plus_for_keys_that_no_file_mentions():
    lines = ["cascade=nano", "stages.math_rl.optimizer.lr=1e-4", "stages.sft1.data.overlong=drop", "runs_dir=/r"]
    config, _ = compose(lines)
    assert config.stages["math_rl"].optimizer.lr == 1e-4
    assert config.stages["math_rl"].optimizer.adam_beta2 == 0.95
    assert config.stages["sft1"].data.overlong == "drop"
    assert config.data_dir == "/r/data"


def test_the_whole_override_grammar_works():
    lines = [
        "cascade=nano",
        "precision=bf16",
        "~stages.sft2",
        "++seed=7",
        "+model.architecture.rope_scaling=5000",
        "stage@stages.sft1=sft",
        "+stage@stages.more=sft",
        "stages.more={seq_length:64,optimizer:{lr:1e-3},data:{sources:[{path:x}]}}",
        "stages.sft1.data.sources.0.repeat=3",
    ]
    config, _ = compose(lines)
    assert {"sft1", "math_rl", "more"} < set(config.stages)
    assert "sft2" not in config.stages
    assert config.seed == 7
    assert config.precision.dtype == "bf16"
    assert config.model.architecture["rope_scaling"] == 5000
    assert config.stages["more"].optimizer.weight_decay == 1e-4  # merged into the family, not in its place
    assert config.stages["sft1"].data.sources[0].repeat == 3


def test_every_violation_is_reported_at_once_with_the_nearest_name():
    found = violations(
        "cascade=nano",
        "stages.math_rl.optimizer.lrr=1",
        "modle=smol",
        "model=nanno",
        "+rollout.max_modl_len=3",
        "stages.math_r.steps=3",
        "rollout.placement=colocatd",
        "stages.sft1.gate.alph=0.1",
        "stages.sft1.gate.tolerance=-1",
        "foo/bar=1",
        "a=b=c",
        "seed=1,2",
        "stages.sft1.seq_length=1e3",
    )
    expected = [
        "did you mean stages.math_rl.optimizer.lr?",
        "did you mean model=smol?",
        "did you mean model=nano?",
        "did you mean rollout.max_model_len?",
        "did you mean stages.math_rl.steps?",
        "did you mean rollout.placement=colocated?",
        "did you mean stages.sft1.gate.alpha?",
        "stages.sft1.gate.tolerance does not fit; got: -1",
        "unknown config group; got: foo/bar",
        "no override; got: a=b=c",
        "seed=1,2; mend: write a list as key=[a,b]",
        "mend: stages.sft1.seq_length=1000",
    ]
    for words in expected:
        assert sum(words in line for line in found) == 1, (words, found)
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("casade=nano", "did you mean cascade=nano?"),
        ("cascade=nanoo", "did you mean cascade=nano?"),
        ("cascade=nemotron_cascade_8b", "did you mean cascade=nemotron_cascade/8b?"),
        ("seed=1", "add cascade="),
    ],
)
def test_a_cascade_that_is_not_chosen_is_said_once(line, words):
    (found,) = violations(line)
    assert words in found


def test_an_integer_is_only_taken_for_an_integer():
    rl = "stages.math_rl"
    values = {"steps": "'12'", "prompts_per_step": "12.0", "num_generations": "true", "updates_per_batch": "null",
              "seq_length": "0", "checkpoint_every": "[12]"}  # fmt: skip
    found = violations("cascade=nano", *(f"{rl}.{key}={value}" for key, value in values.items()))
    assert len(found) == len(values)
    for (key, value), line in zip(sorted(values.items()), sorted(found), strict=True):
        assert f"{rl}.{key} does not fit" in line
        assert f"from command line: {rl}.{key}={value}" in line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "+stages.math_rl.prompts={path: x}",
            "write stages.math_rl.tasks.NAME={path: ..., domain: ..., reward: {kind:",
        ),
        ("stages.math_rl.mixed_with=[]", "write stages.math_rl.tasks.NAME={"),
        ("stages.math_rl.tasks.math.verifier=code", "write stages.math_rl.tasks.math.reward.kind"),
        ("evaluation.suites.math.verifier=code", "write evaluation.suites.math.reward.kind"),
    ],
)
def test_a_key_of_earlier_versions_is_refused_with_what_to_write(line, words):
    (found,) = violations("cascade=nano", line)
    assert words in found


def test_a_deleted_or_unset_key_is_missed_by_name_and_meaning():
    found = violations("cascade=nano", "~stages.math_rl.tasks.math.path", "+stage@stages.x=sft")
    assert any(line.startswith("stages.math_rl.tasks.math.path is missing") and "JSONL" in line for line in found)
    assert any(line.startswith("stages.x.optimizer.lr is missing") for line in found)
    assert any(line.startswith("stages.x.data.sources is missing") for line in found)


def test_entries_of_mappings_are_added_on_request_and_keep_the_schema_s_others():
    config, _ = compose(["cascade=nano", "reward.deadlines.code=90", "+reward.deadlines.math=3"])
    assert config.reward.deadlines["code"] == 90
    assert config.reward.deadlines["math"] == 3
    assert set(config.reward.deadlines) > {"code", "math"}
    found = violations("cascade=nano", "reward.deadlines.cod=90", "evaluation.suites.physics.num_prompts=1")
    assert any("did you mean reward.deadlines.code?" in line for line in found)
    assert any("mend: +evaluation.suites.physics.num_prompts=VALUE adds an entry" in line for line in found)


def test_adding_what_exists_and_removing_what_does_not_are_refused_like_in_hydra():
    found = violations("cascade=nano", "+seed=3", "~rollout.block_size")
    assert "+ adds, but the key has a value; got: seed=0; mend: seed=3" in found
    assert any("nothing to delete" in line and "rollout.block_size" in line for line in found)


def test_own_config_files_stand_beside_the_shipped_ones_and_their_mistakes_are_placed(tmp_path):
    (tmp_path / "cascade").mkdir()
    (tmp_path / "cascade" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - nano\n  - _self_\n  - override /model: tall\nname: mine\nseeed: 3\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tall.yaml").write_text("name: tall\npath: nowhere\n")
    (found,) = violations("cascade=mine", config_dir=tmp_path)
    assert f"got: seeed (from {tmp_path.name}/cascade/mine.yaml:7); mend: did you mean seed?" in found
    (tmp_path / "cascade" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - nano\n  - _self_\n  - override /model: tall\nname: mine\n"
    )
    config, _ = compose(["cascade=mine"], tmp_path)
    assert (config.name, config.model.name, len(config.stages)) == ("mine", "tall", 8)
    (tmp_path / "model" / "nano.yaml").write_text("name: shadow\npath: nowhere\n")
    (found,) = violations("cascade=mine", config_dir=tmp_path)
    assert "would not be read" in found
    (tmp_path / "config.yaml").write_text((SHIPPED_CONF / "config.yaml").read_text())
    assert compose(["cascade=nano"], tmp_path)[0].model.name == "shadow"  # own config.yaml: own files first


def test_broken_files_and_references_are_refused_not_crashed_on(tmp_path):
    (tmp_path / "cascade").mkdir()
    file = tmp_path / "cascade" / "bad.yaml"
    file.write_text("# @package _global_\nname: [\n")
    (found,) = violations("cascade=bad", config_dir=tmp_path)
    assert f"no YAML; got: {file}, line 3" in found
    file.write_text("# @package _global_\ndefaults:\n  - nano\n  - _self_\n  - override /model: nanoo\n")
    (found,) = violations("cascade=bad", config_dir=tmp_path)
    assert f"got: {file}: override /model: nanoo" in found
    assert "did you mean override /model: nano?" in found
    (found,) = violations("cascade=nano", "name=${runs_dirr}")
    assert "'runs_dirr' not found" in found
    assert "no such choice of cascade" in violations("cascade=null")[0]


def test_every_value_knows_where_it_came_from():
    config, provenance = compose(["cascade=nano", "stages.sft1.optimizer.lr=0.5", "gate={alpha:0.05}"])
    origins = provenance["origins"]
    assert origins["stages.sft1.optimizer.lr"] == "command line: stages.sft1.optimizer.lr=0.5"
    assert origins["gate.alpha"] == "command line: gate={alpha:0.05}"
    assert origins["gate.tolerance"] == "schema default"
    assert origins["stages.sft1.data.sources.0.repeat"] == "schema default"
    file, _, line = origins["stages.sft1.optimizer.weight_decay"].rpartition(":")
    assert file == "conf/optimizer/cosine.yaml"
    assert "weight_decay" in (SHIPPED_CONF / "optimizer/cosine.yaml").read_text().splitlines()[int(line) - 1]
    file, _, line = origins["stages.sft2.data.sources.0.path"].rpartition(":")
    assert file == "conf/cascade/nano.yaml"
    assert "sft2.jsonl" in (SHIPPED_CONF / "cascade/nano.yaml").read_text().splitlines()[int(line) - 1]
    assert config.gate.alpha == 0.05


def test_the_config_folder_is_plain_hydra():
    with hydra.initialize_config_dir(config_dir=str(SHIPPED_CONF), version_base="1.3"):
        plain = OmegaConf.to_container(hydra.compose("config", overrides=["cascade=nano", "seed=3"]), resolve=True)
    values = config_values(compose(["cascade=nano", "seed=3"])[0])

    def contained(part, whole):
        return all(contained(v, whole[k]) if isinstance(v, dict) else k in whole for k, v in part.items())

    assert contained(plain, values)
    assert plain["stages"]["math_rl"]["optimizer"] == {
        k: values["stages"]["math_rl"]["optimizer"][k] for k in plain["stages"]["math_rl"]["optimizer"]
    }


def test_an_empty_mapping_that_would_change_nothing_is_refused_with_what_does():
    with pytest.raises(ConfigError) as refused:
        compose(["cascade=nano", "evaluation.suites={}"], None)
    told = str(refused.value)
    assert "mappings are merged, so an empty one removes nothing; got: evaluation.suites={}" in told
    removals = told.partition("mend: ")[2].split()
    config, _ = compose(["cascade=nano", *removals], None)
    assert config.evaluation.suites == {}
