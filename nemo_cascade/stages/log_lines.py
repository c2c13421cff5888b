"""The parts of a line of metrics.jsonl that all stage kinds share."""

import math
from collections.abc import Sequence
from typing import Any

from nemo_cascade.training.setup import StepResult


def optimizer_line(results: Sequence[StepResult]) -> dict[str, Any]:
    """Return what the optimizer steps of one line say; a loss or norm that wasn't finite (a skipped step) is None.

    So are they where no step was made.
    """
    if not results:
        return {"loss": None, "grad_norm": None, "lr": 0.0, "tokens": 0, "skipped": 0}
    last = results[-1]
    loss = sum(r.loss for r in results) / len(results)
    return {
        "loss": finite_or_none(loss),
        "grad_norm": finite_or_none(last.grad_norm),
        "lr": last.lr,
        "tokens": sum(r.tokens for r in results),
        "skipped": sum(int(r.skipped) for r in results),
        **{name: finite_or_none(value) for name, value in last.metrics.items()},
        **({"expert_load": last.expert_load} if last.expert_load else {}),
        **({"memory_bytes": last.memory_bytes} if last.memory_bytes else {}),
    }


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where it couldn't be measured."""
    return value if math.isfinite(value) else None
