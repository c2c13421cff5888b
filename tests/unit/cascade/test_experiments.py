"""Experiments: every shipped one can be run as it stands, and the command runs, forks and compares its arms."""

import json
import shutil
from dataclasses import replace

import pytest

from nemo_cascade.cascade.experiments import (
    arm_overrides,
    chosen_seeds,
    experiment_names,
    read_experiment,
    seed_overrides,
)
from nemo_cascade.cascade.fork import check_fork
from nemo_cascade.cli import main as command
from nemo_cascade.cli.verbs import run
from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.gate import GateOverride
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import ConfigError
from nemo_cascade.evaluation.scores import Scores


@pytest.mark.parametrize("name", experiment_names())
def test_every_shipped_experiment_can_be_run_and_its_forks_share_what_they_say(name):
    experiment, configs = read_experiment(name), {}
    for arm, entry in experiment.arms.items():
        configs[arm] = compose(arm_overrides(name, arm, entry.overrides, ["seed=1"]))[0]
        assert violations(configs[arm]) == []
        assert (configs[arm].name, configs[arm].seed) == (f"{name}-{arm}" if entry.fork else "nano", 1)
        if entry.fork:
            anew = list(configs[arm].stages)[list(configs[entry.fork.of].stages).index(entry.fork.at) :]
            assert all(configs[arm].stages[stage].gate == GateOverride(on_regression="promote") for stage in anew)
            check_fork(configs[entry.fork.of], configs[arm], entry.fork.at)


def test_one_order_against_the_other_differs_in_nothing_else():
    experiment = read_experiment("rlhf_or_if_first")
    one, other = (compose(entry.overrides)[0] for entry in experiment.arms.values())
    assert list(one.stages)[3:5] == ["rlhf", "if_rl"]
    assert list(other.stages)[3:5] == ["if_rl", "rlhf"]
    assert all(replace(other.stages[name], gate=GateOverride()) == stage for name, stage in one.stages.items())
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


def test_seeds_come_from_the_command_line_or_the_experiment_or_the_configuration():
    shipped = read_experiment("forgetting")
    assert chosen_seeds(shipped, None, []) == [0, 1, 2]
    assert chosen_seeds(shipped, [4, 5], ["stages.sft1.max_steps=9"]) == [4, 5]
    assert chosen_seeds(shipped, None, ["seed=7"]) == [None]
    assert chosen_seeds(replace(shipped, seeds=[]), None, []) == [None]
    with pytest.raises(ConfigError, match=r"seed=7 and seeds \[1\]: the seed is told twice"):
        chosen_seeds(shipped, [1], ["seed=7"])
    with pytest.raises(ConfigError, match="seed 1 is named twice"):
        chosen_seeds(shipped, [1, 1], [])


def test_another_seed_has_a_folder_and_data_of_its_own_and_the_own_seed_is_the_run_that_is_there():
    overrides = ["cascade=nano", "name=nano", "runs_dir=somewhere"]
    config = compose(overrides)[0]
    assert seed_overrides(overrides, config, 0) == overrides
    other = compose(seed_overrides(overrides, config, 3))[0]
    told = (other.seed, other.runs_dir, other.name, other.data_dir)
    assert told == (3, "somewhere/seed3", "nano", "somewhere/seed3/data")


@pytest.mark.long  # six runs
def test_an_experiment_over_seeds_runs_every_arm_with_each_and_finds_what_holds_over_all(
    tmp_path, monkeypatch, capsys, finished_folder
):
    """The arms' runs are copies of a run that is there, one better by some prompts: what is tested is what is told."""
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "better.yaml"
    mine.write_text(
        "question: Is it better?\nseeds: [5]\n"
        "arms: {one: {overrides: [cascade=nano]}, two: {overrides: [cascade=nano]}}\n"
    )
    ran = []

    def stand_in(args):
        told = dict(text.split("=", 1) for text in args.overrides)
        ran.append((told["name"], told.get("seed", "0"), told.get("runs_dir", "runs")))
        folder = tmp_path / told.get("runs_dir", "runs") / told["name"]
        shutil.copytree(finished_folder.path, folder)
        if told["name"] == "better-two":
            raise_scores(folder, math=28 + int(told.get("seed", "0")), code=5 if told.get("seed") == "1" else 0)
        return 0

    monkeypatch.setattr(run, "execute", stand_in)
    assert command.main(["experiment", str(mine), "--seeds", "0", "1", "2", "logging.progress=false"]) == 0
    folders = {"0": "runs", "1": "runs/seed1", "2": "runs/seed2"}
    assert ran == [(f"better-{arm}", seed, place) for seed, place in folders.items() for arm in ("one", "two")]
    results = json.loads((tmp_path / "runs" / "better-over-seeds.json").read_text())
    rows = {row["domain"]: row for row in results["comparisons"]["two minus one, at the end"]}
    assert [domain for domain, row in rows.items() if row["holds"]] == ["math"]
    assert rows["code"]["over"]["by_seed"][1] > 0 == rows["code"]["over"]["by_seed"][0]
    finding = results["findings"][0]
    assert finding.startswith("two minus one, at the end, over 3 seeds: math +0.")
    assert finding.endswith("no difference shown in instruction, code.")
    assert finding in (tmp_path / "runs" / "better-over-seeds.html").read_text()
    assert all((tmp_path / place / "better.html").is_file() for place in folders.values())
    assert "better-over-seeds.html" in capsys.readouterr().out


def raise_scores(folder, **prompts):
    """Solve so many unsolved prompts of the stage that the run goes on from last."""
    path = folder / "stages" / "01-sft1" / "scores.json"
    scores = Scores.load(path)
    samples = {domain: {prompt: list(row) for prompt, row in rows.items()} for domain, rows in scores.samples.items()}
    for domain, count in prompts.items():
        for prompt in [prompt for prompt, row in samples[domain].items() if sum(row) < len(row)][:count]:
            samples[domain][prompt] = [1.0] * len(samples[domain][prompt])
    Scores(samples, scores.details).save(path)
