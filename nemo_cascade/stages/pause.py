"""When a run has to pause so that another job can go on with it: its job is about to end, or it was asked to.

A job's end is known from SLURM_JOB_END_TIME (Slurm 23.02 sets it; the job script of `nemo-cascade submit` sets it under
any version). SIGUSR1 asks for a pause, as `--signal=B:USR1@600` does shortly before the wall time.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType

from nemo_cascade.errors import PausedError

END_VARIABLE = "SLURM_JOB_END_TIME"
STEPS_LEFT = 2

_asked = threading.Event()


def listen() -> None:
    """From now on SIGUSR1 asks for a pause; it would end the process otherwise."""
    signal.signal(signal.SIGUSR1, _ask)


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.set()


def pause_if_asked(place: str) -> None:
    """Stop here if a pause was asked for; everything so far must be on disk.

    Raises:
        PausedError: it was.
    """
    if _asked.is_set():
        raise PausedError(place, "it was asked to (SIGUSR1)")


def job_end(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return when the job that this process runs in ends, seconds since 1970; None outside jobs or without a limit."""
    text = environment.get(END_VARIABLE, "")
    return float(text) if text.isdigit() and int(text) > 0 else None


class TimeLeft:
    """Tell behind each step whether the time left holds `STEPS_LEFT` more of them and a save.

    Args:
        end_s: when the job ends, seconds since 1970; None: never.
        clock: the time now, as `time.time`.
    """

    def __init__(self, end_s: float | None, clock: Callable[[], float] = time.time) -> None:
        self.end_s, self._clock = end_s, clock
        self._step_s = self._save_s = 0.0
        self._since = clock()

    def restart(self) -> None:
        """Begin to measure a step here."""
        self._since = self._clock()

    def step_done(self) -> None:
        """Note how long the step took that ends here."""
        self._step_s = self._clock() - self._since

    def saved(self) -> None:
        """Note how long it took to save, from the step's end until here; the next step begins."""
        now = self._clock()
        self._save_s = now - self._since - self._step_s
        self._since = now

    def reason_to_pause(self) -> str | None:
        """Return why the run must pause at this step's end; None if it may go on."""
        if _asked.is_set():
            return "it was asked to (SIGUSR1)"
        if self.end_s is None:
            return None
        left, need = self.end_s - self._clock(), STEPS_LEFT * self._step_s + self._save_s
        if left >= need:
            return None
        return (
            f"the job ends in {left:.0f} s, and {STEPS_LEFT} steps of {self._step_s:.1f} s and a save of "
            f"{self._save_s:.1f} s need more"
        )
