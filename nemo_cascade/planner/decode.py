"""Output tokens a second of an engine that is kept full: decode steps of its largest batch, prefill in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_cascade.planner.engine import Engine
from nemo_cascade.planner.regression import Array, by_differences

PRIORS: dict[str, float] = {
    "launch": 25e-6, "launch experts": 80e-6, "reduce": 12e-6, "weights": 1.25, "cache": 1.4, "compute": 2.0,
    "compute low": 1.2, "compute experts": 1.5, "prefill": 1.0, "attention": 2.5, "room": 0.85, "most": 2000.0,
}  # fmt: skip
NAMES = tuple(PRIORS)
PRIOR = np.log(list(PRIORS.values()))
DEVIATION = np.array([0.08 if name == "room" else 0.4 for name in NAMES])
LEAST = np.full(len(NAMES), -np.inf)


@dataclass(frozen=True, slots=True)
class Served:
    """Requests that an engine is kept full with.

    Attributes:
        engine: the engine.
        prompt: tokens of a prompt.
        output: tokens of a response.
        requests: that there are; the batch can't be larger.
        software: that serves.
    """

    engine: Engine
    prompt: float
    output: float
    requests: float = 1e9
    software: str = "vLLM"


@dataclass(frozen=True)
class ServedFormula:
    """Output tokens a second and GPU as a function of the factors' logarithms (`regression.Formula`); N cases.

    Attributes:
        cases: what is served.
        counts: [N] by name: what of a case doesn't hang on the factors.
    """

    cases: Sequence[Served]
    counts: dict[str, Array]

    @classmethod
    def of(cls, cases: Sequence[Served]) -> ServedFormula:
        """Count the cases."""
        rows = [_counted(case) for case in cases]
        return cls(cases, {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else {})})

    def values(self, factors: Array) -> Array:
        """Return [N] logarithms of tokens a second and GPU."""
        p, n = dict(zip(NAMES, np.exp(factors), strict=True)), self.counts
        batch = self.batch(factors)
        touched = 1 - n["missed"] ** batch
        low = np.where(n["low"] > 0, p["compute low"], 1.0)
        compute = p["compute"] * low * np.where(n["experts"] > 0, p["compute experts"], 1.0)
        step = p["launch"] * n["plain"] + p["launch experts"] * n["experts"]
        step = step + p["reduce"] * (n["plain"] + n["experts"]) * n["several"]
        step = step + p["weights"] * (n["dense_s"] + n["expert_s"] * touched)
        step = step + batch * (p["cache"] * n["cache_s"] + compute * n["token_s"])
        prompt = p["prefill"] * compute * n["token_s"] + p["attention"] * n["attention_s"]
        each = n["output"] * step / batch + n["prompt"] * prompt
        return np.asarray(np.log(n["output"] / each / n["tp"]))

    def batch(self, factors: Array) -> Array:
        """Return [N] sequences in a rank's decode step: what memory, the engine and the requests allow."""
        p, n = dict(zip(NAMES, np.exp(factors), strict=True)), self.counts
        fits = (p["room"] * n["memory"] - n["stored"]) / n["cache"]
        return np.asarray(np.minimum(np.minimum(p["most"], fits), n["requests"]).clip(1.0))

    def slope(self, factors: Array) -> Array:
        """Return [N, F], their derivatives."""
        return by_differences(self.values, factors)


def _counted(case: Served) -> dict[str, float]:
    engine, hardware = case.engine, case.engine.hardware
    hbm = hardware.hbm_tb_per_s * 1e12
    plain, experts = engine.blocks
    cache = engine.cache_bytes(case.prompt + case.output / 2)
    dense, expert = engine.read_bytes
    return {
        "prompt": case.prompt, "output": case.output, "requests": case.requests, "tp": engine.tp,
        "memory": hardware.memory_gb * 1e9, "stored": engine.stored, "cache": cache,
        "plain": plain, "experts": experts, "several": float(engine.tp > 1 or engine.ep > 1),
        "low": float(engine.weight_bytes < 2), "missed": engine.missed,
        "dense_s": dense / hbm, "expert_s": expert / hbm, "cache_s": cache / hbm,
        "token_s": engine.step_flops / engine.peak,
        "attention_s": engine.attention_flops(case.prompt) / (hardware.bf16_tflops * 1e12),
    }  # fmt: skip
