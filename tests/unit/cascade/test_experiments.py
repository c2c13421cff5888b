"""Experiments: every shipped one can be run as it stands, and the command runs, forks and compares its arms."""

import json
import shutil
from dataclasses import replace

import pytest

from nemo_cascade.cascade.experiments import arm_overrides, experiment_names, read_experiment
from nemo_cascade.cascade.fork import check_fork
from nemo_cascade.cli import main as command
from nemo_cascade.cli import run
from nemo_cascade.config.compose import compose
from nemo_cascade.config.validate import violations
from nemo_cascade.errors import ConfigError
from nemo_cascade.rewards.registry import VERIFIER_NAMES


@pytest.mark.parametrize("name", experiment_names())
def test_every_shipped_experiment_can_be_run_and_its_forks_share_what_they_say(name):
    experiment, configs = read_experiment(name), {}
    for arm, entry in experiment.arms.items():
        configs[arm] = compose(arm_overrides(name, arm, entry.overrides, ["seed=1"]))[0]
        assert violations(configs[arm], VERIFIER_NAMES) == []
        assert (configs[arm].name, configs[arm].seed) == (f"{name}-{arm}" if entry.fork else "nano", 1)
        if entry.fork:
            anew = list(configs[arm].stages)[list(configs[entry.fork.of].stages).index(entry.fork.at) :]
            assert all(configs[arm].stages[stage].gate == {"on_regression": "promote"} for stage in anew)
            check_fork(configs[entry.fork.of], configs[arm], entry.fork.at)


def test_one_order_against_the_other_differs_in_nothing_else():
    experiment = read_experiment("rlhf_or_if_first")
    one, other = (compose(entry.overrides)[0] for entry in experiment.arms.values())
    assert list(one.stages)[3:5] == ["rlhf", "if_rl"]
    assert list(other.stages)[3:5] == ["if_rl", "rlhf"]
    assert all(replace(other.stages[name], gate={}) == stage for name, stage in one.stages.items())
    assert list(one.stages)[:3] + list(one.stages)[5:] == list(other.stages)[:3] + list(other.stages)[5:]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("question: why\n", "has no arms"),
        ("question: why\narms: {a: {overrides: [], fork: {of: b, at: c}}}\n", "no earlier arm; got: b"),
        ("question: why\narms: {a: {override: []}}\n", "override"),
        ("a: [", "is no experiment"),
    ],
)
def test_what_is_no_experiment_is_refused(tmp_path, text, told):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_experiment(str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match="no such experiment: mine; allowed: "):
        read_experiment("mine")


def test_the_command_runs_each_arm_and_writes_the_page(tmp_path, monkeypatch, capsys, finished_folder):
    """The arms' runs are copies of a run that is there: what is tested is the order of things."""
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "seeds.yaml"
    arms = "{one: {overrides: [cascade=nano]}, two: {overrides: [cascade=nano, seed=5]}}"
    mine.write_text(f"question: Does the seed matter?\narms: {arms}\n")
    ran = []

    def stand_in(args):
        name = next(text for text in args.overrides if text.startswith("name=")).removeprefix("name=")
        ran.append((name, "stages.sft1.max_steps=9" in args.overrides))
        shutil.copytree(finished_folder.path, tmp_path / "runs" / name)
        return 0

    monkeypatch.setattr(run, "execute", stand_in)
    assert (
        command.main(["experiment", str(mine), "stages.sft1.max_steps=9", "stages.sft1.optimizer.lr_warmup_steps=1"])
        == 0
    )
    assert ran == [("seeds-one", True), ("seeds-two", True)]
    page = (tmp_path / "runs" / "seeds.html").read_text()
    assert "Does the seed matter?" in page
    assert "Differences from seeds-one" in page
    results = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    assert {entry["paired"]["difference"] for entry in results["at_the_end"]["seeds-two"]} == {0.0}
    assert results["findings"][0] in page
    assert "seeds.html" in capsys.readouterr().out
