"""A held run goes on by the commands that it names, typed as they are told; on a scripted cascade.

The real stack types them in tests/e2e/test_provoked_regression.py.
"""

import shlex
from dataclasses import replace

import pytest

from nemo_cascade.cascade import runner
from nemo_cascade.cascade.fork import fork_run
from nemo_cascade.cascade.ledger import read_ledger
from nemo_cascade.cascade.rulings import rule
from nemo_cascade.cli import main as command
from nemo_cascade.config.gate import GateOverride
from nemo_cascade.config.reading.provenance import run_command
from nemo_cascade.errors import RunFolderError
from nemo_cascade.report.story import held_stage, outcome_line, ways_on
from tests.unit.cascade.scripted import GOOD, LAST, START, World


@pytest.fixture
def held(config, tmp_path, monkeypatch):
    scene = World(config, tmp_path, monkeypatch, GOOD, stage_gate=GateOverride(on_regression="hold"))
    scene.provenance = {"overrides": ["cascade=nano", "name=trial", "stages.math_rl.promise.hold=['*']"]}
    assert scene.run() == runner.HELD
    return scene


def typed(scene, option):
    """Type the command with this option as it was told, and return what it does."""
    told = next(text for _, text in ways_on(scene.folder, "math_rl") if option in text)
    words = shlex.split(told)
    assert words[0] == "nemo-cascade"
    return command.main(words[1:])


@pytest.mark.parametrize(
    ("option", "outcome", "model", "stage", "next_starts_from"),
    [
        ("--accept", "promote", "last", LAST, LAST),
        ("--rollback", "rollback", "last", LAST, START),
        ("--recover", "recover", "step_000004", (70, 45), (70, 45)),
    ],
)
def test_each_ruling_takes_the_cascade_on_to_its_end(held, capsys, option, outcome, model, stage, next_starts_from):
    assert typed(held, option) == 0
    held.engines_start_from.clear()
    assert run_command(held.folder.path) in capsys.readouterr().out
    assert held.run() == 0
    assert held.result == (outcome, model, stage, next_starts_from)
    # Engines that are first needed for a model that is only tried start from a folder that stays.
    assert all((folder / "config.json").is_file() for folder in held.engines_start_from)
    assert bool(held.engines_start_from) == (option == "--recover")
    assert held.run() == 0  # nothing is left to do, nothing is ruled twice
    records = held.runner().ledger.records
    ruled = [r for r in records if r.event == "ruled"]
    assert [(r.stage, r.details["ruling"], r.details["because"]) for r in ruled] == [("math_rl", option[2:], "why")]
    decided = [r.details["outcome"] for r in records if r.event == "decided" and r.stage == "math_rl"]
    assert decided == ["hold", outcome]
    runner.write_report(held.folder.path)
    page = (held.folder.path / "report.html").read_text()
    assert "by hand: why" in page
    assert outcome_line(records, list(held.config.stages)).startswith("2 of 2 stages decided: ")


def test_a_held_run_says_so_each_time_with_the_commands(held, caplog):
    caplog.clear()
    assert held.run() == runner.HELD
    runner.write_report(held.folder.path)
    page = (held.folder.path / "report.html").read_text().replace("&#34;", '"').replace("&#39;", "'")
    for _, told in ways_on(held.folder, "math_rl"):
        assert told in caplog.text
        assert told in page
    assert held_stage(held.folder)[0] == "math_rl"
    told = run_command(held.folder.path)
    assert shlex.split(told)[2:] == held.provenance["overrides"]


def test_another_configuration_judges_a_held_stage_anew(held):
    rules = replace(held.config.stages["math_rl"], gate=GateOverride(on_regression="promote"))
    held.config = replace(held.config, stages={**held.config.stages, "math_rl": rules})
    held.runner().ledger.append("forked", changes=["stages.math_rl.gate.on_regression: hold -> promote"])
    assert held.run() == 0
    assert held.result == ("promote", "last", LAST, LAST)
    assert [name for name, *_ in held.parents] == ["math_rl", "code_rl"]  # not trained twice


def test_a_fork_behind_the_hold_is_refused_with_the_commands_and_goes_after_one_of_them(held):
    new = replace(held.config, name="hot")
    with pytest.raises(RunFolderError, match=r"decide \S+ --stage math_rl --rollback --because"):
        fork_run(held.folder.path, "code_rl", new, {})
    assert typed(held, "--rollback") == 0
    fork = fork_run(held.folder.path, "code_rl", new, {})
    assert {r.event for r in read_ledger(fork.ledger) if r.stage == "math_rl"} >= {"ruled", "decided"}
    held.config, held.folder = new, fork
    assert held.run() == 0
    assert held.parents[-1][:2] == ("code_rl", START)


@pytest.mark.parametrize("dies_before", ["gate.json", "ledger"])
def test_a_ruling_that_was_cut_short_is_carried_out_by_the_run(held, monkeypatch, dies_before):
    path, append = held.folder.path, runner.Ledger.append

    def die(*_, **__):
        raise KeyboardInterrupt

    def append_or_die(self, event, *args, **details):
        return die() if event == "decided" else append(self, event, *args, **details)

    with monkeypatch.context() as broken:
        if dies_before == "gate.json":
            broken.setattr("nemo_cascade.cascade.rulings.carry_out", die)
        else:
            broken.setattr(runner.Ledger, "append", append_or_die)
        with pytest.raises(KeyboardInterrupt):
            rule(path, "math_rl", "accept", "why")
    assert held_stage(held.folder) is None
    assert held.run() == 0
    assert held.result[0] == "promote"


def test_what_can_not_be_ruled_is_refused_with_the_way_that_there_is(held):
    path = held.folder.path
    with pytest.raises(RunFolderError, match=r"no such stage; got: maths; allowed: math_rl, code_rl"):
        rule(path, "maths", "accept", "why")
    with pytest.raises(RunFolderError, match="needs its reason"):
        rule(path, "math_rl", "accept", "  ")
    with pytest.raises(RunFolderError, match=r"no decision yet.*mend: let the run come to it: nemo-cascade run"):
        rule(path, "code_rl", "accept", "why")
    with held.folder.claimed(), pytest.raises(RunFolderError, match="another process"):
        rule(path, "math_rl", "accept", "why")
    rule(path, "math_rl", "recover", "why")
    assert held.run() == 0
    with pytest.raises(RunFolderError, match=r"rest on its decision; got: code_rl; mend: .*fork .* --at code_rl"):
        rule(path, "math_rl", "rollback", "why")
    assert command.main(["decide", str(path), "--stage", "math_rl", "--accept", "--because", "why"]) == command.REFUSED
