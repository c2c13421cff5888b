"""Seconds of a reinforcement-learning step: rollouts by their lengths, scoring, training, hand-over of weights.

    generation = sum over decode steps of (launches + sums over ranks + weights + cache), + computation of all tokens
    together:    generation + log-probs + training + hand-over + constant
    apart:       (generation^4 + (log-probs + training)^4)^(1/4) + hand-over + constant

Lengths are exponential, cut off at the longest, with the mean that is given: batches thin out towards the end, unless
rollouts may be older than the weights, so that new ones take the place of those that ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_cascade.planner.engine import Engine
from nemo_cascade.planner.job import Job
from nemo_cascade.planner.regression import Array, by_differences

PRIORS: dict[str, float] = {
    "launch": 35e-6, "launch experts": 100e-6, "reduce": 12e-6, "reduce wide": 150e-6, "weights": 1.4, "cache": 1.6,
    "compute": 2.5, "train": 1.7, "logprob": 1.6, "refit": 3.0, "refit together": 1.5, "step": 6.0,
}  # fmt: skip
NAMES = tuple(PRIORS)
GENERATION = NAMES[: NAMES.index("train")]
PRIOR = np.log(list(PRIORS.values()))
_SURE = ("step", "weights", "cache", "refit", "refit together")
DEVIATION = np.array([0.2 if name in _SURE else 0.35 for name in NAMES])
LEAST = np.full(len(NAMES), -np.inf)
_POINTS = 48
_RESHARD = 40e9
"""Bytes a second at which a colocated hand-over moves the whole model past a GPU, nominally."""


@dataclass(frozen=True, slots=True)
class RlStep:
    """One step of reinforcement learning.

    Attributes:
        job: of one update on the training ranks; its step holds the tokens of one update.
        updates: of a step.
        train_s: seconds of one update by the training model.
        engine: one of the engines.
        engines: how many.
        samples: responses of a step.
        prompt: mean tokens of a prompt.
        mean: tokens of a response.
        longest: tokens that cut it off.
        together: engines and training share their GPUs in turns.
        lag: steps that rollouts may be older than the weights; above 0 an engine never runs empty.
        scored: forward passes for log-probs (old policy, reference).
        software: that runs it.
        low: rollouts and training in FP8.
    """

    job: Job
    updates: float
    train_s: float
    engine: Engine
    engines: float
    samples: float
    prompt: float
    mean: float
    longest: float
    together: bool
    lag: int = 0
    scored: float = 1.0
    software: str = "NeMo-RL"
    low: bool = False


def scale_of(mean: float, longest: float) -> float:
    """Return the scale of exponential lengths that have this mean when they are cut off at the longest."""
    mean = min(mean, 0.98 * longest)
    low, high = mean * 0.5, longest * 100
    for _ in range(60):
        middle = math.sqrt(low * high)
        if middle * (1 - math.exp(-longest / middle)) < mean:
            low = middle
        else:
            high = middle
    return low


def generation_terms(step: RlStep) -> dict[str, float]:
    """Return nominal seconds, or counts, of one step's rollouts on one engine."""
    engine, hbm = step.engine, step.engine.hardware.hbm_tb_per_s * 1e12
    requests = step.samples / step.engines
    running = requests * max(1, step.lag)
    scale = scale_of(step.mean, step.longest)
    room = 0.8 * engine.hardware.memory_gb * 1e9 * (0.75 if step.together else 1.0) - engine.stored
    capacity = max(1.0, min(1024.0, room / engine.cache_bytes(step.prompt + step.mean / 2)))
    at_once = min(running, capacity)
    last = min(step.longest, scale * (math.log(max(at_once, 1.0)) + 0.58)) if step.lag == 0 else 0.0
    edges = np.linspace(0.0, last, _POINTS + 1)
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    batch = (at_once * np.exp(-middle / scale)).clip(1.0)
    waiting = requests if step.lag else max(0.0, requests - capacity)
    steady = waiting * step.mean / at_once  # decode steps with a full batch while others wait
    steps, plain_experts = float(last + steady), engine.blocks
    missed, (dense, expert) = engine.missed, engine.read_bytes
    touched = float((width * (1 - missed**batch)).sum()) + steady * (1 - missed**at_once)
    per_token = (engine.cache_bytes(4096.0) - engine.cache_bytes(0.0)) / 4096.0
    read = float((width * batch * (step.prompt + middle)).sum()) + steady * at_once * (step.prompt + step.mean / 2)
    wide = engine.tp > engine.hardware.nvlink_domain
    tokens = requests * (step.mean + step.prompt / max(1.0, _SHARED_PROMPT))
    terms = dict.fromkeys(GENERATION, 0.0)
    terms["launch"] = steps * plain_experts[0]
    terms["launch experts"] = steps * plain_experts[1]
    terms["reduce wide" if wide else "reduce"] = steps * sum(plain_experts) * math.log2(engine.tp) / 3
    terms["weights"] = (dense * steps + expert * touched) / hbm
    terms["cache"] = per_token * read / hbm
    terms["compute"] = tokens * engine.step_flops / engine.peak
    return terms


_SHARED_PROMPT = 8.0
"""Responses that share a prompt's prefill."""


def refit_seconds(step: RlStep) -> float:
    """Return nominal seconds of handing the weights over."""
    whole = 2.0 * sum(step.engine.shape.parameters)
    if step.together:
        return whole / _RESHARD
    return whole / step.engine.tp / (step.engine.hardware.network_gb_per_s * 1e9)


@dataclass(frozen=True)
class RlFormula:
    """Seconds of steps as a function of the factors' logarithms (`regression.Formula`); N steps.

    Attributes:
        generation: [N, G] terms.
        train: [N] seconds of all updates.
        logprob: [N] seconds of the forward passes.
        refit: [N]
        together: [N] bool.
    """

    generation: Array
    train: Array
    logprob: Array
    refit: Array
    together: Array

    @classmethod
    def of(cls, steps: Sequence[RlStep]) -> RlFormula:
        """Count steps."""
        terms = [generation_terms(step) for step in steps]
        train = np.array([step.updates * step.train_s for step in steps])
        forward = [step.scored / (4.0 if step.job.recompute.whole else 3.0) for step in steps]
        return cls(
            np.array([[one[name] for name in GENERATION] for one in terms]),
            train,
            train * np.array(forward),
            np.array([refit_seconds(step) for step in steps]),
            np.array([step.together for step in steps]),
        )

    def phases(self, factors: Array) -> dict[str, Array]:
        """Return [N] seconds of every phase."""
        p = dict(zip(NAMES, np.exp(factors), strict=True))
        refit = np.where(self.together, p["refit together"], p["refit"]) * self.refit
        return {
            "generate": self.generation @ np.array([p[name] for name in GENERATION]),
            "logprob": p["logprob"] * self.logprob,
            "train": p["train"] * self.train,
            "sync": refit,
            "other": np.full(len(self.train), p["step"]),
        }

    def values(self, factors: Array) -> Array:
        """Return [N] logarithms of seconds."""
        phases = self.phases(factors)
        learned = phases["logprob"] + phases["train"]
        apart = (phases["generate"] ** 4 + learned**4) ** 0.25
        body = np.where(self.together, phases["generate"] + learned, apart)
        return np.asarray(np.log(body + phases["sync"] + phases["other"]))

    def slope(self, factors: Array) -> Array:
        """Return [N, F], their derivatives."""
        return by_differences(self.values, factors)
