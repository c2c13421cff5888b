"""A run pauses at a step's end while the time left still holds two steps and a save, and what it keeps is the same."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import PausedError
from nemo_cascade.stages import pause
from nemo_cascade.stages.context import StageCheckpoints

STAGE = compose(["cascade=nano", "stages.math_rl.checkpoint_every=5", "stages.math_rl.keep_checkpoints=2"])[0].stages[
    "math_rl"
]


class Policy:
    """Keep a state as a checkpoint does, and take `save_s` for it."""

    def __init__(self, now, save_s):
        self.now, self.save_s = now, save_s

    def save_checkpoint(self, folder, state):
        (Path(folder) / "state.json").write_text(json.dumps(state))
        self.now[0] += self.save_s

    def load_checkpoint(self, folder):
        return json.loads((Path(folder) / "state.json").read_text())


def train(folder, end_s=None, step_s=10.0, save_s=4.0, steps=13):
    """Run steps of `step_s` from where the folder stands; returns what told to pause, if anything did."""
    now = [1000.0]
    policy = Policy(now, save_s)
    kept = StageCheckpoints(SimpleNamespace(folder=folder, name="x", record=lambda *_, **__: None), STAGE, steps)
    kept.time = pause.TimeLeft(end_s, lambda: now[0])
    done, _ = kept.resume(policy)
    for step in range(done + 1, steps + 1):
        now[0] += step_s
        try:
            kept.save_if_due(policy, step, {"step": step})
        except PausedError as paused:
            return paused
    return None


def kept_steps(folder):
    return [int(path.name.removeprefix("step_")) for path in sorted((folder / "checkpoints").glob("step_*"))]


def test_the_last_step_ends_two_steps_and_a_save_before_the_wall_time(tmp_path):
    # Steps end at 1010, ..., 1050 (a save until 1054), 1064, 1074, 1084: there 22 s are left, and 24 are needed.
    paused = train(tmp_path, end_s=1106.0)
    assert "x, step 8 of 13" in str(paused)
    assert "the job ends in 22 s" in str(paused)
    assert kept_steps(tmp_path) == [5, 8]


def test_a_run_that_paused_keeps_the_checkpoints_of_one_that_did_not(tmp_path):
    assert train(tmp_path / "whole") is None
    assert train(tmp_path / "paused", end_s=1106.0) is not None
    assert train(tmp_path / "paused", end_s=1061.0) is not None
    assert train(tmp_path / "paused") is None
    assert kept_steps(tmp_path / "paused") == kept_steps(tmp_path / "whole") == [10, 13]


def test_every_start_does_at_least_one_step(tmp_path):
    for step in (1, 2, 3):
        assert f"step {step} of 13" in str(train(tmp_path, end_s=1001.0))


def test_a_signal_asks_for_a_pause_at_the_next_step_and_between_stages(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(pause, "_asked", type(pause._asked)())
    try:
        pause.listen()
        pause.pause_if_asked("sft1")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert "SIGUSR1" in str(train(tmp_path))
        with pytest.raises(PausedError, match="after the gate of sft1"):
            pause.pause_if_asked("the gate of sft1")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert kept_steps(tmp_path) == [1]


@pytest.mark.parametrize(
    ("told", "end"),
    [({}, None), ({pause.END_VARIABLE: "1764418000"}, 1764418000.0), ({pause.END_VARIABLE: "Unknown"}, None)],
)
def test_the_end_of_the_job_is_read_from_slurm(told, end):
    assert pause.job_end(told) == end
