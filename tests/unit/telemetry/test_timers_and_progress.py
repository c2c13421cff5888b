"""Where the seconds go, and how progress is told."""

import io
import logging
from contextlib import suppress

import pytest
from rich.console import Console

from nemo_cascade.config.schema import LoggingConfig
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer


class Clock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_phases_sum_to_the_step_and_nested_ones_are_counted_once():
    clock = Clock()
    timer = PhaseTimer(clock)
    clock.now += 1
    with timer.phase("generate"):
        clock.now += 5
        with timer.phase("verify"):
            clock.now += 2
        clock.now += 1
    with suppress(RuntimeError), timer.phase("train"):
        clock.now += 3
        raise RuntimeError
    clock.now += 0.5
    report = timer.report(tokens=250)
    assert report == {"seconds": {"generate": 6, "verify": 2, "train": 3, "other": 1.5}, "tokens_per_s": 20}
    clock.now += 4
    assert timer.finish() == {"other": 4}


def test_unknown_phases_and_unfinished_ones_are_programming_errors():
    timer = PhaseTimer()
    with pytest.raises(AssertionError, match="unknown phase"), timer.phase("training"):
        pass
    with pytest.raises(AssertionError, match="inside the phase train"), timer.phase("train"):
        timer.finish()


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_at_the_end(caplog):
    clock = Clock()
    plain = Console(file=io.StringIO(), force_terminal=False)
    with (
        caplog.at_level(logging.INFO, logger="nemo_cascade.telemetry.progress"),
        Progress("math_rl", 40, 10, LoggingConfig(), console=plain, clock=clock) as progress,
    ):
        for step in range(30):
            clock.now += 4
            progress.advance(f"reward {step / 100:.2f}")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "math_rl: 11/40, 4.0 s each, 1 min 56 s left, reward 0.00"
    assert lines[1] == "math_rl: 14/40, 4.0 s each, 1 min 44 s left, reward 0.03"
    assert lines[-1] == "math_rl: 40/40, 4.0 s each, reward 0.29"
    assert len(lines) == 11


@pytest.mark.parametrize("wanted", [True, False])
def test_a_terminal_gets_a_bar_unless_it_is_switched_off(caplog, wanted):
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=120)
    with (
        caplog.at_level(logging.INFO, logger="nemo_cascade.telemetry.progress"),
        Progress("sft1", 2, 0, LoggingConfig(progress=wanted), console=console) as progress,
    ):
        progress.advance("loss 1.0")
        progress.advance("loss 0.5")
    assert ("2/2" in terminal.getvalue() and "loss 0.5" in terminal.getvalue()) == wanted
    assert bool(caplog.records) != wanted
