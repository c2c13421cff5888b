"""How far a piece of work is: a live bar on a terminal, elsewhere a log line a minute and one behind a stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from nemo_cascade.config.logging import LoggingConfig
from nemo_cascade.telemetry.console import err

_log = logging.getLogger(__name__)

LINE_EVERY_S = 60.0


class Progress:
    """Show the progress of one piece of work; use as a context manager.

    Args:
        label: what it is, `math_rl` or `start: math`.
        total: units of work.
        done: units done before (resume).
        logging_config: `progress` switches the live bar off.
        last_line: without a bar, also say when it is done; for what has no log line of its own then.
        console: where the bar goes; default: where log lines go, too.
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(
        self,
        label: str,
        total: int,
        done: int,
        logging_config: LoggingConfig,
        last_line: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.done = label, total, done
        self._clock = clock
        self._started, self._start_done = clock(), done
        self._last_line = self._started
        self._text, self._end_is_told = "", last_line
        console = console if console is not None else err
        self._live: RichProgress | None = None
        if logging_config.progress and console.is_terminal:
            self._live = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]left"),
                TimeRemainingColumn(),
                TextColumn("[cyan]{task.fields[text]}"),
                console=console,
            )
            self._task = self._live.add_task(label, total=total, completed=done, text="")

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._end_is_told and kind is None:
            _log.info("%s", self.last_line(self._clock()))

    def advance(self, text: str = "", units: int = 1) -> None:
        """Count work as done.

        Args:
            text: the state in a few words, `loss 1.234`.
            units: how much was done.
        """
        self.done += units
        self._text = text
        if self._live is not None:
            self._live.update(self._task, completed=self.done, text=text)
            return
        now = self._clock()
        if now - self._last_line >= LINE_EVERY_S and self.done < self.total:
            self._last_line = now
            _log.info("%s", self.line(now))

    def line(self, now: float) -> str:
        """Return the plain line: label, share done, rate, time left, state."""
        parts = [f"{self.label}: {self.done}/{self.total}"]
        elapsed, fresh = now - self._started, self.done - self._start_done
        if fresh > 0 and elapsed > 0:
            each = elapsed / fresh
            parts += [f"{_duration(each)} each", f"{_duration(each * (self.total - self.done))} left"]
        return ", ".join([*parts, *([self._text] if self._text else [])])

    def last_line(self, now: float) -> str:
        """Return the line of finished work: label, how much was done in what time, last state."""
        done = f"{self.label}: {self.done - self._start_done} in {_duration(now - self._started)}"
        return ", ".join([done, *([self._text] if self._text else [])])


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
