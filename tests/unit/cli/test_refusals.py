"""A refusal says value, limit and a mend, and the mend works when it is typed."""

import re
import shlex

from nemo_cascade.cli import main as command

# What is wrong -> how a mend that works begins.
WRONG = {
    "stages.math_rl.sampling.temperature=2.5": "stages.math_rl.sampling.temperature=2",
    "evaluation.suites.math.sampling.temperature=3": "evaluation.suites.math.sampling.temperature=2",
    "seed=4294967296": "seed=4294967295",
    "stages.sft1.keep_checkpoints=0": "stages.sft1.keep_checkpoints=1",
    "gate.on_regression=recovr": "gate.on_regression=recover",
    "stages.math_rl.num_generations=1": "stages.math_rl.num_generations=2",
}


def test_every_violation_is_told_at_once_and_each_mend_works_as_it_is_printed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["plan", "cascade=nano", *WRONG]) == command.REFUSED
    told = capsys.readouterr().err
    mends = [found.rstrip("?") for found in re.findall(r"mend: (?:did you mean )?(\S+=\S+)", told)]
    for wrong, right in WRONG.items():
        value = wrong.partition("=")[2]
        assert value in told, wrong
        assert any(mend.startswith(right) for mend in mends), f"{wrong}\n{told}"
    assert command.main(["plan", "cascade=nano", *mends]) == 0


def test_a_misplaced_key_is_mended_by_its_place(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["plan", "cascade=nano", "stages.math_rl.lr=1e-4", "model.hiden_size=64"]) == command.REFUSED
    meant = re.findall(r"did you mean (\S+)\?", capsys.readouterr().err)
    assert meant == ["stages.math_rl.optimizer.lr", "model.architecture.hidden_size"]
    assert command.main(["plan", "cascade=nano", f"{meant[0]}=1e-4", f"{meant[1]}=64"]) == 0


def test_a_held_run_is_taken_on_by_the_commands_that_it_prints(capsys, tmp_path, monkeypatch):
    from tests.support.decided_run import decided_run

    monkeypatch.chdir(tmp_path)
    decided_run(tmp_path / "runs")
    assert command.main(["plan", "cascade=nano"]) == 0
    told = capsys.readouterr().out
    assert "held after math_rl" in told
    accept = next(line for line in told.splitlines() if "--accept" in line)
    words = shlex.split(accept[accept.index("nemo-cascade") :])
    assert command.main(words[1:]) == 0
    capsys.readouterr()
    assert command.main(["plan", "cascade=nano"]) == 0
    assert "goes on where it stopped" in capsys.readouterr().out
