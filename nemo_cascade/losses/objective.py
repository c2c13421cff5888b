"""What a model is trained for: one value, and one table of what each kind reads and needs. Import-light: no torch.

The formulas stand beside: `cross_entropy`, `distillation`, `policy`, `preference`, `reward_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nemo_cascade.config.stages.policy_loss import LogitTeacherConfig, PolicyLossConfig, TeacherAdvantageConfig
from nemo_cascade.config.stages.preference_loss import PreferenceLossConfig
from nemo_cascade.errors import ConfigError
from nemo_cascade.losses.units import RATING, Aggregation


@dataclass(frozen=True, slots=True)
class SftLoss:
    """Cross entropy of the trained labels."""


@dataclass(frozen=True, slots=True)
class LogitDistillation:
    """A teacher's distribution at every trained token.

    Attributes:
        config: temperature and mixture.
        teacher_hf_path: HF folder of the teacher, which the same ranks hold.
    """

    config: LogitTeacherConfig
    teacher_hf_path: str


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The policy gradient.

    Attributes:
        config: its switches.
        temperature: of the sampling distribution, whose log-probabilities are the policy's.
        reference_hf_path: HF folder of a frozen second model, for `logprobs(which="reference")`.
        teacher: how teachers' log-probabilities are the advantages; None: those come with the batch.

    Raises:
        ConfigError: no such temperature.
    """

    config: PolicyLossConfig
    temperature: float = 1.0
    reference_hf_path: str | None = None
    teacher: TeacherAdvantageConfig | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError([f"temperature {self.temperature} can't score log-probabilities; it must be above 0"])


@dataclass(frozen=True, slots=True)
class Preference:
    """A policy's loss on pairs, against log-probabilities of a frozen reference that come with the batch.

    Attributes:
        config: its switches.
    """

    config: PreferenceLossConfig


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """A reward model's loss on pairs; its head is drawn anew where it starts from a language model.

    Attributes:
        form: whether, and how, it counts how strongly the chosen response is preferred.
    """

    form: Literal["plain", "margin", "scaled"] = "plain"


@dataclass(frozen=True, slots=True)
class Regression:
    """A reward model's loss on rated attributes; its head is drawn anew where it starts from a language model.

    Attributes:
        weights: attribute, in the order of the head's outputs -> its weight in the score.
    """

    weights: tuple[tuple[str, float], ...]

    @property
    def attributes(self) -> tuple[str, ...]:
        """The outputs' names."""
        return tuple(name for name, _ in self.weights)


Objective = SftLoss | LogitDistillation | PolicyLoss | Preference | BradleyTerry | Regression


@dataclass(frozen=True, slots=True)
class LossSpec:
    """What an objective reads and needs.

    Attributes:
        unit: what its sum is divided by.
        head: what the model has to end with: lm, whose labels' log-probabilities are read, or a reward model's, whose
            outputs are read at documents' ends.
        extras: further tensors that every batch must hold.
        reference: whether it asks for a frozen reference model.
    """

    unit: Aggregation
    head: Literal["lm", "score"] = "lm"
    extras: frozenset[str] = frozenset()
    reference: bool = False


def _policy(objective: PolicyLoss) -> LossSpec:
    config, teacher = objective.config, objective.teacher
    extras = {
        "advantages": teacher is None,
        "teacher_logprobs": teacher is not None,
        "previous_logprobs": teacher is not None and teacher.student == "previous",
        "behaviour_logprobs": config.correction != "none" or (config.kl_coefficient > 0 and config.kl_correction),
        "reference_logprobs": config.kl_coefficient > 0,
        "sequence_weights": config.aggregation == "sequence",
    }
    needed = frozenset(name for name, wanted in extras.items() if wanted)
    return LossSpec(config.aggregation, extras=needed, reference=config.kl_coefficient > 0)


_SPECS: Mapping[type, Callable[[Any], LossSpec]] = {
    SftLoss: lambda _: LossSpec("token"),
    LogitDistillation: lambda _: LossSpec("token"),
    PolicyLoss: _policy,
    Preference: lambda preference: LossSpec("pair", extras=frozenset(preference.config.reads)),
    BradleyTerry: lambda pairs: LossSpec("pair", "score", frozenset(["strength"] * (pairs.form != "plain"))),
    Regression: lambda rated: LossSpec("rating", "score", frozenset(RATING + name for name in rated.attributes)),
}


def loss_spec(objective: Objective) -> LossSpec:
    """Return what an objective reads and needs."""
    return _SPECS[type(objective)](objective)
