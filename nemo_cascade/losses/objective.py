"""What a model is trained for: a value that says what it reads, and turns a micro-batch into its loss.

One file of this folder holds one loss: its formula, and its class below `Objective`. A user's own is such a class in a
file of theirs, named by `stages.NAME.objective.kind=my_loss.py:Name`; a stage of their own just makes one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from torch import Tensor

from nemo_cascade.config.plugins import load_plugin
from nemo_cascade.errors import CascadeError
from nemo_cascade.losses.correction import Documents
from nemo_cascade.losses.output import LossOutput
from nemo_cascade.losses.units import Aggregation
from nemo_cascade.sandbox.inside.foreign import Attempt

Head = Literal["lm", "score"]
"""lm: the labels' log-probabilities are read; score: a reward model's outputs at documents' ends."""


@dataclass(frozen=True, slots=True)
class LossSpec:
    """What an objective reads and needs.

    Attributes:
        unit: what its sum is divided by.
        extras: further tensors that every batch must hold.
    """

    unit: Aggregation
    extras: frozenset[str] = frozenset()

    @property
    def of_documents(self) -> bool:
        """Whether every context rank computes the loss of whole documents, so that one rank's has to count."""
        return self.unit in ("pair", "rating")


class Scored(Protocol):
    """A micro-batch as the model has scored it. T tokens of this rank, N trained, D trained documents, K outputs."""

    @property
    def loss_mask(self) -> Tensor:
        """[T], 1 where the label is trained."""
        ...

    @property
    def extras(self) -> Mapping[str, Tensor]:
        """Further [T]."""
        ...

    @property
    def documents(self) -> Documents:
        """The documents of the tokens."""
        ...

    def logprobs(self, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return log-probability of each label and the entropy, [T] float32, with gradient."""
        ...

    def trained_logprobs(self) -> Tensor:
        """Return log-probability of the trained labels, at temperature 1, [N] float32, with gradient."""
        ...

    def teacher_kl(self, temperature: float) -> Tensor:
        """Return KL(teacher || model) at each trained token, [N], with gradient."""
        ...

    def outputs(self) -> Tensor:
        """Return a score head's outputs for each document, [D, K], with gradient."""
        ...

    def scores(self) -> Tensor:
        """Return a reward model's score of each document, [D], with gradient."""
        ...

    def at_marks(self, name: str) -> Tensor:
        """Return an extra's value for each document, [D]; it stands at the document's one trained token."""
        ...


class Objective(ABC):
    """What a model is trained for. Immutable; it travels to the ranks."""

    __slots__ = ()

    @abstractmethod
    def spec(self) -> LossSpec:
        """Return what it reads and needs."""

    @abstractmethod
    def loss(self, scored: Scored) -> LossOutput:
        """Return the loss of one micro-batch: a sum; it is divided by the units of the global batch."""

    @property
    def head(self) -> Head:
        """What the model has to end with."""
        return "lm"

    @property
    def temperature(self) -> float:
        """What logits are divided by, wherever log-probabilities are computed."""
        return 1.0

    def at(self, temperature: float) -> Objective:
        """Return the same at another temperature; one that samples nothing has none."""
        return self

    @property
    def reference_hf_path(self) -> str | None:
        """HF folder of a frozen second model, for `logprobs(which="reference")`."""
        return None

    @property
    def teacher_hf_path(self) -> str | None:
        """HF folder of a frozen second model whose logits are learned."""
        return None

    @property
    def attributes(self) -> tuple[tuple[str, float], ...]:
        """A new score head's outputs: name, weight in the score; none: it has one output, the score."""
        return ()


@dataclass(frozen=True, slots=True)
class OwnObjective(Objective):
    """A user's own, in place of a stage's; wherever it arrives, its class is loaded from its file.

    Attributes:
        kind: where that is.
        settings: what it takes by name.
        shipped: what the stage would train for, whose models and temperature it has.
    """

    kind: str
    settings: Mapping[str, Any]
    shipped: Objective

    @property
    def made(self) -> Objective:
        """The user's.

        Raises:
            CascadeError: its class can't be made, or isn't one of a policy's objectives.
        """
        with Attempt(Exception) as attempt:
            made = load_plugin(self.kind)(**self.settings)
        if attempt.error is not None:
            why = f"{self.kind}: {type(attempt.error).__name__}: {attempt.error}"
            raise CascadeError("an objective can't be made", value=why, mend="its settings") from attempt.error
        if not isinstance(made, Objective) or made.head != self.shipped.head:
            limit = f"a class below nemo_cascade.losses.objective.Objective whose head is {self.shipped.head!r}"
            raise CascadeError("this is no objective of the stage", value=self.kind, limit=limit)
        return made

    def spec(self) -> LossSpec:
        """Return what the user's reads and needs."""
        return self.made.spec()

    def loss(self, scored: Scored) -> LossOutput:
        """Return the user's loss."""
        return self.made.loss(scored)

    def at(self, temperature: float) -> OwnObjective:
        """Return the same at another temperature."""
        return replace(self, shipped=self.shipped.at(temperature))

    @property
    def head(self) -> Head:
        """What the model has to end with: that of the stage."""
        return self.shipped.head

    @property
    def temperature(self) -> float:
        """The stage's."""
        return self.shipped.temperature

    @property
    def reference_hf_path(self) -> str | None:
        """The stage's."""
        return self.shipped.reference_hf_path

    @property
    def teacher_hf_path(self) -> str | None:
        """The stage's."""
        return self.shipped.teacher_hf_path

    @property
    def attributes(self) -> tuple[tuple[str, float], ...]:
        """The stage's."""
        return self.shipped.attributes
