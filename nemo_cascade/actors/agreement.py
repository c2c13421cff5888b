"""Do trainer and engines compute the same? Both score the same random tokens.

That the weights are equal, checksums prove bit by bit (rollout.held_weights). What is left is the computation, and two
sound ones differ by rounding: hardly in fp32, visibly in bf16, and far beyond the rest at a few tokens, where a
sequence that begins with no beginning makes huge activations. So the limits are on the mean and on the 99 % quantile,
by dtype, and beside them stands what rounding gives in this very run: the trainer against itself with every layer's
output rounded once more.

SmolLM2 in bf16 against the same weights in fp32, on 24 random sequences of 64 tokens: mean 0.066 (0.059 to 0.080 in
fours), 99 % quantile 0.30 (0.23 to 0.31), maximum 0.93, once 3.9; two sides that round are 1.4 times as far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.config.rollout import WeightSyncConfig
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.layout import make_document
from nemo_cascade.errors import WeightSyncError
from nemo_cascade.training.setup import WhichModel
from nemo_cascade.types import Float32, Int32

QUANTILE = 0.99
# Of the probe.
_SEQUENCES, _TOKENS = 4, 64


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two scorings of the same tokens lie apart: mean, 99 % quantile and maximum of |difference|."""

    mean: float
    quantile: float
    max: float

    def __str__(self) -> str:
        return f"mean {self.mean:.3g}, 99 % {self.quantile:.3g}, max {self.max:.3g}"

    @classmethod
    def between(cls, a: Sequence[Float32], b: Sequence[Float32]) -> Distance:
        """Measure it; a value that is not finite makes it infinite."""
        with np.errstate(invalid="ignore"):
            difference = np.abs(np.concatenate(a).astype(np.float64) - np.concatenate(b).astype(np.float64))
        difference[~np.isfinite(difference)] = np.inf
        ordered = np.sort(difference)
        # The value itself, not one between two: infinities can't be interpolated.
        return cls(float(ordered.mean()), float(ordered[int(QUANTILE * (ordered.size - 1))]), float(ordered[-1]))


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest distance that passes; None of a part sets no limit to it."""

    mean: float | None
    quantile: float | None
    max: float | None

    def __str__(self) -> str:
        parts = {"mean": self.mean, "99 %": self.quantile, "max": self.max}
        return ", ".join(f"{name} {limit:g}" for name, limit in parts.items() if limit is not None)

    def hold(self, distance: Distance) -> bool:
        """Tell whether a distance is within them."""
        pairs = [(distance.mean, self.mean), (distance.quantile, self.quantile), (distance.max, self.max)]
        return all(limit is None or value <= limit for value, limit in pairs)

    def widened(self, floor: Distance) -> Limits:
        """Return limits on mean and quantile that leave room for what rounding gives, up to a multiple of their own."""
        if self.mean is None or self.quantile is None:
            return self
        mean = min(max(self.mean, _FLOORS * floor.mean), _MOST * self.mean)
        return Limits(mean, min(max(self.quantile, _FLOORS * floor.quantile), _MOST * self.quantile), self.max)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Trainer against the engine that is farthest from it, and against itself with every layer rounded once more."""

    engines: Distance
    floor: Distance


# A second implementation rounds more often than once a layer.
_FLOORS = 3.0
# A model that is this chaotic can't tell sound from unsound.
_MOST = 4.0
# fp32: SmolLM2 is 1e-4 apart at most. fp8 was not measured.
_BY_COARSEST = {"fp32": Limits(None, None, 1e-3), "bf16": Limits(0.1, 0.5, None), "fp8": Limits(0.2, 1.0, None)}


def limits(config: WeightSyncConfig, floor: Distance, *dtypes: str) -> Limits:
    """Return the limits between sides that compute in these dtypes.

    The coarsest one's, widened where rounding alone takes up much of them, unless the config says them.
    """
    own = Limits(config.mean_logprob_difference, config.quantile_logprob_difference, config.max_logprob_difference)
    if own != Limits(None, None, None):
        return own
    return _BY_COARSEST[max(dtypes, key=list(_BY_COARSEST).index)].widened(floor)


def prove_equal(policy: TrainerGroup, rollout: RolloutGroup, config: WeightSyncConfig, version: int) -> Agreement:
    """Compare trainer and every engine on random tokens, at the policy's temperature.

    Random tokens are unlikely ones, where a wrong computation shows most. A probe sequence is cut to what both sides
    can take.

    Raises:
        WeightSyncError: an engine is farther away than its limits allow, with the worst place and both values.
    """
    sequences = _probe_sequences(policy, rollout, version)
    trainer = _trainer_scores(policy, sequences, "policy")
    floor = Distance.between(trainer, _trainer_scores(policy, sequences, "rounded_anew"))
    allowed = limits(config, floor, policy.dtype, rollout.config.dtype)
    found = [
        compare(name, trainer, engine, allowed, floor)
        for name, engine in rollout.probe_each(sequences, policy.temperature).items()
    ]
    return Agreement(max(found, key=lambda distance: distance.mean), floor)


def _trainer_scores(policy: TrainerGroup, sequences: Sequence[Int32], which: WhichModel) -> list[Float32]:
    """Return [n - 1] log-probs of each sequence of n tokens."""
    documents = [make_document(s, np.ones(s.size, np.uint8)) for s in sequences]
    source = balanced_micro_batches(documents, policy.seq_length, policy.parallel.data_parallel_size)
    return [scores[:-1] for scores in source.per_sample(policy.logprobs(source, 0, which))]


def _probe_sequences(policy: TrainerGroup, rollout: RolloutGroup, version: int) -> list[Int32]:
    model = read_json_object(Path(rollout.model_path) / "config.json")
    longest = min(_TOKENS, rollout.config.max_model_len - 1, policy.seq_length)
    random = np.random.default_rng([rollout.seed, version])
    return [random.integers(0, model["vocab_size"], size=longest, dtype=np.int32) for _ in range(_SEQUENCES)]


def compare(
    name: str, trainer: Sequence[Float32], engine: Sequence[Float32], allowed: Limits, floor: Distance
) -> Distance:
    """Return the distance between trainer and one engine.

    Raises:
        WeightSyncError: it is over the limits.
    """
    distance = Distance.between(trainer, engine)
    if not allowed.hold(distance):
        a, b = np.concatenate(trainer), np.concatenate(engine)
        with np.errstate(invalid="ignore"):
            difference = np.abs(a - b)
        worst = int(np.argmax(np.where(np.isfinite(difference), difference, np.inf)))
        raise WeightSyncError(
            f"trainer and {name} don't compute the same log-probs",
            value=f"{distance} over {a.size} tokens; worst: trainer {a[worst]:.4f}, engine {b[worst]:.4f}; by rounding "
            f"alone (the trainer, every layer rounded once more): {floor}",
            limit=f"{allowed} (rollout.weight_sync.*_logprob_difference)",
            mend="the engine computes another model: a missed sync, a wrong weight map, or a kernel of its own that is "
            "wrong; where the distance is about what rounding gives, raise the limits",
        )
    return distance
