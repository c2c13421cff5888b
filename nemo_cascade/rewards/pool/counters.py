"""What a verifier pool counts: verdicts, errors by kind, restarts by cause, seconds."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass

from nemo_cascade.types import Verdict

_log = logging.getLogger(__name__)
_WINDOW = 8192


@dataclass(frozen=True, slots=True)
class SlowSample:
    """One verdict that took too long: enough to find the sample again."""

    key: str
    verifier: str
    seconds: float
    outcome: str
    text_head: str


class Tally:
    """Counters of a pool. Percentiles cover the last 8192 verdicts.

    Args:
        slow_s: verdicts that took longer are logged and kept, the newest 64 of them.
    """

    def __init__(self, slow_s: float) -> None:
        self._slow_s = slow_s
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._waits: deque[float] = deque(maxlen=_WINDOW)
        self._verdicts = 0
        self._errors: Counter[str] = Counter()
        self._restarts: Counter[str] = Counter()
        self.slow_samples: deque[SlowSample] = deque(maxlen=64)

    def verdict(self, verdict: Verdict, *, waited_s: float, key: object, verifier: str, text_head: str) -> None:
        """Count a verdict; `waited_s` is the time it stood in the queue."""
        self._verdicts += 1
        self._seconds.append(verdict.seconds)
        self._waits.append(waited_s)
        if verdict.error is not None:
            self._errors[verdict.error] += 1
        if verdict.seconds > self._slow_s or verdict.error == "timeout":
            outcome = verdict.error or f"score {verdict.score:g}"
            sample = SlowSample(repr(key)[:200], verifier, verdict.seconds, outcome, repr(text_head))
            self.slow_samples.append(sample)
            _log.warning("slow verdict (%s, %.1f s): %s of %s", outcome, verdict.seconds, verifier, sample.key)

    def restart(self, cause: str) -> None:
        """Count a worker that was replaced."""
        self._restarts[cause] += 1

    def stats(self) -> dict[str, float]:
        """Return all counters and percentiles (seconds) under flat names."""
        result = {"verdicts": float(self._verdicts), "errors": float(self._errors.total())}
        result |= {f"errors/{kind}": float(n) for kind, n in sorted(self._errors.items())}
        result |= {f"restarts/{cause}": float(n) for cause, n in sorted(self._restarts.items())}
        for name, values in (("seconds", sorted(self._seconds)), ("queue_seconds", sorted(self._waits))):
            for percent in (50, 95, 99):
                rank = min(len(values) - 1, len(values) * percent // 100)
                result[f"{name}/p{percent}"] = values[rank] if values else 0.0
        return result
