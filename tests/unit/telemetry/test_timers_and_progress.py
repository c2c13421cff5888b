"""Where the seconds go, and how progress is told."""

import io
import logging
from contextlib import suppress

import pytest
from rich.console import Console

from nemo_cascade.config.logging import LoggingConfig
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


@pytest.mark.parametrize("last_line", [True, False])
def test_without_a_terminal_a_line_comes_every_minute_and_at_the_end_where_asked_for(caplog, last_line):
    clock = Clock()
    plain = Console(file=io.StringIO(), force_terminal=False)
    with (
        caplog.at_level(logging.INFO, logger="nemo_cascade.telemetry.progress"),
        Progress("math_rl", 40, 10, LoggingConfig(), last_line, console=plain, clock=clock) as progress,
    ):
        for step in range(30):
            clock.now += 4
            progress.advance(f"reward {step / 100:.2f}")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["math_rl: 25/40, 4.0 s each, 1 min 00 s left, reward 0.14"] + last_line * [
        "math_rl: 30 in 2 min 00 s, reward 0.29"
    ]


def test_work_that_ends_early_says_so_and_work_that_fails_says_nothing(caplog):
    clock, plain = Clock(), Console(file=io.StringIO(), force_terminal=False)
    with caplog.at_level(logging.INFO, logger="nemo_cascade.telemetry.progress"):
        with Progress("math_rl", 40, 0, LoggingConfig(), True, console=plain, clock=clock) as progress:
            clock.now += 8
            progress.advance("reward 0.50", units=2)
        with suppress(RuntimeError), Progress("code_rl", 4, 0, LoggingConfig(), True, console=plain, clock=clock):
            raise RuntimeError
    assert [record.getMessage() for record in caplog.records] == ["math_rl: 2 in 8.0 s, reward 0.50"]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_terminal_gets_a_bar_unless_it_is_switched_off(caplog, wanted):
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=120)
    with (
        caplog.at_level(logging.INFO, logger="nemo_cascade.telemetry.progress"),
        Progress("sft1", 2, 0, LoggingConfig(progress=wanted), last_line=True, console=console) as progress,
    ):
        progress.advance("loss 1.0")
        progress.advance("loss 0.5")
    assert ("2/2" in terminal.getvalue() and "loss 0.5" in terminal.getvalue()) == wanted
    assert bool(caplog.records) != wanted
