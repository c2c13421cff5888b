"""Where a step's seconds go."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PHASES = ("generate", "verify", "logprob", "teachers", "train", "sync", "other")


class PhaseTimer:
    """Split a step's wall time over named phases; what no phase claims is `other`, so they sum to the total.

    A phase inside a phase takes its time away from the outer one. Use it as a stopwatch: the step runs from
    construction, or the last `finish`, to the next `finish`.

    Args:
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._stack: list[str] = []
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._mark = clock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block to a phase, also when it raises."""
        assert name in self._seconds, f"unknown phase {name!r}; known: {', '.join(PHASES)}"
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def finish(self) -> dict[str, float]:
        """End the step: return seconds by phase, phases that took no time left out, and start the next step."""
        assert not self._stack, f"step finished inside the phase {self._stack[-1]}"
        self._charge()
        done = {name: seconds for name, seconds in self._seconds.items() if seconds > 0}
        self._seconds = dict.fromkeys(PHASES, 0.0)
        return done

    def report(self, tokens: int) -> dict[str, Any]:
        """End the step and return its log fields: `seconds` by phase and `tokens_per_s` over the whole step.

        Args:
            tokens: what the step processed.
        """
        seconds = self.finish()
        total = sum(seconds.values())
        return {"seconds": seconds, "tokens_per_s": tokens / total if total > 0 else None}

    def _charge(self) -> None:
        now = self._clock()
        self._seconds[self._stack[-1] if self._stack else "other"] += now - self._mark
        self._mark = now
