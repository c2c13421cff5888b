"""The record of a configuration, and which differences make another run."""

from dataclasses import replace

import pytest
import yaml

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.config.checks.repeatable import repeatability
from nemo_cascade.config.gate import GateOverride
from nemo_cascade.config.logging import SinkConfig
from nemo_cascade.config.reading import provenance
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import RunFolderError


@pytest.fixture(scope="module")
def composed():
    return compose(["cascade=nano"])


@pytest.fixture
def nano(composed):
    return composed[0]


def warmer(config):
    stage = config.stages["math_rl"]
    stages = config.stages | {"math_rl": replace(stage, sampling=replace(stage.sampling, temperature=1.2))}
    return replace(config, stages=stages)


def test_only_what_changes_numbers_counts(nano):
    same = replace(
        nano,
        name="other",
        runs_dir="elsewhere",
        resume="fork",
        logging=replace(nano.logging, sinks=[SinkConfig(kind="tensorboard")]),
        cluster=replace(nano.cluster, ray_address="10.0.0.1:1", step_deadline_s=1.0),
        rollout=replace(nano.rollout, weight_sync=replace(nano.rollout.weight_sync, deadline_s=1.0)),
    )
    assert provenance.config_hash(same) == provenance.config_hash(nano)
    assert provenance.config_diff(nano, same) == []
    assert provenance.config_diff(nano, warmer(nano)) == ["stages.math_rl.sampling.temperature: 1.0 -> 1.2"]
    reordered = replace(nano, stages=dict(reversed(nano.stages.items())))
    for other in (warmer(nano), reordered, replace(nano, seed=1)):
        assert provenance.config_hash(other) != provenance.config_hash(nano)


def test_checkpoints_count_where_one_of_them_may_be_the_result(nano):
    def changed(**more):
        stage = replace(nano.stages["math_rl"], **more)
        return replace(nano, stages=nano.stages | {"math_rl": stage})

    ways = ({"select": "best"}, *({"gate": GateOverride(on_regression=way)} for way in ("checkpoint", "recover")))
    for how in ways:
        assert provenance.config_diff(changed(**how), changed(keep_checkpoints=5, **how)) == [
            "stages.math_rl.keep_checkpoints: 2 -> 5"
        ]
    held = {"gate": GateOverride(on_regression="hold")}
    assert provenance.config_diff(changed(**held), changed(keep_checkpoints=5, **held)) == []


def test_the_record_reads_back_and_tells_on_what_it_ran(composed, nano, tmp_path):
    RunFolder(tmp_path / "run").write_record(nano, composed[1])
    assert provenance.read_config(tmp_path / "run") == nano
    record = yaml.safe_load((tmp_path / "run" / "provenance.yaml").read_text())
    assert record["origins"]["stages.math_rl.steps"].startswith("conf/cascade/nano.yaml:")
    assert record["packages"]["torch"].startswith("2.")
    assert record["overrides"] == ["cascade=nano"]
    assert sorted(f.name for f in (tmp_path / "run").iterdir()) == ["config.yaml", "provenance.yaml"]


def test_the_record_says_whether_the_same_start_gives_the_same_bits(nano):
    def said(**cluster):
        return repeatability(replace(nano, cluster=replace(nano.cluster, **cluster)))

    assert said(device="cpu")["same_bits"].startswith("yes")
    assert said(device="gpu")["same_bits"] == "no: cluster.deterministic=false"
    told = said(device="gpu", deterministic=True)
    assert told["environment"]["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] == "0"
    assert "not proven" in told["same_bits"]


def test_a_folder_is_resumed_by_its_own_configuration_only(composed, nano, tmp_path):
    folder = tmp_path / "run"
    assert provenance.check_run_folder(folder, nano) is False
    RunFolder(folder).write_record(nano, composed[1])
    assert provenance.check_run_folder(folder, nano) is True
    with pytest.raises(RunFolderError, match=r"stages.math_rl.sampling.temperature: 1.0 -> 1.2[\s\S]*resume=fork"):
        provenance.check_run_folder(folder, warmer(nano))
    assert provenance.check_run_folder(folder, replace(warmer(nano), resume="fork")) is True
    with pytest.raises(RunFolderError, match="resume=never"):
        provenance.check_run_folder(folder, replace(nano, resume="never"))


def test_foreign_folders_are_refused_and_torn_starts_are_not(nano, tmp_path):
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(RunFolderError, match="holds something else"):
        provenance.check_run_folder(tmp_path, nano)
    torn = tmp_path / "torn"
    torn.mkdir()
    for name in (".lock", ".config.yaml.77", "provenance.yaml"):
        (torn / name).write_text("")
    assert provenance.check_run_folder(torn, nano) is False
    (torn / "config.yaml").write_text("name: x\nsteps: 3\n")
    with pytest.raises(RunFolderError, match="another version"):
        provenance.check_run_folder(torn, nano)
