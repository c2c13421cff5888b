"""What a model is trained for: a value that says what it reads, and turns a micro-batch into its loss.

One file of this folder holds one loss: its formula, and its class below `Objective`. A user's own is such a class in a
file of theirs, named by `stages.NAME.objective.kind=my_loss.py:Name`; a stage of their own just makes one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

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
        whole_documents: it is of whole documents (by `Documents.reduce`, `Scored.outputs`), so that every rank that
            holds some tokens of a document computes all of it, and one rank's counts; else of a rank's tokens alone.
    """

    unit: Aggregation
    extras: frozenset[str] = frozenset()
    whole_documents: bool = False

    def __post_init__(self) -> None:
        if self.unit not in get_args(Aggregation):
            limit = ", ".join(get_args(Aggregation))
            raise CascadeError("no unit that a loss can be divided by", value=str(self.unit), limit=limit)


class Scored(Protocol):
    """A micro-batch as the model has scored it. T tokens of this rank, N trained, D trained documents, K outputs."""

    @property
    def loss_mask(self) -> Tensor:
        """[T], 1 where the label is trained."""

    @property
    def extras(self) -> Mapping[str, Tensor]:
        """Further [T]."""

    @property
    def documents(self) -> Documents:
        """The documents of the tokens."""

    def logprobs(self, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return log-probability of each label and the entropy, [T] float32, with gradient."""

    def trained_logprobs(self) -> Tensor:
        """Return log-probability of the trained labels, at temperature 1, [N] float32, with gradient."""

    def teacher_kl(self, temperature: float) -> Tensor:
        """Return KL(teacher || model) at each trained token, [N], with gradient."""

    def outputs(self) -> Tensor:
        """Return a score head's outputs for each document, [D, K], with gradient."""

    def scores(self) -> Tensor:
        """Return a reward model's score of each document, [D], with gradient."""

    def at_marks(self, name: str) -> Tensor:
        """Return an extra's value for each document, [D]; it stands at the document's one trained token."""


class Objective(ABC):
    """What a model is trained for. Immutable; it travels to the ranks."""

    __slots__ = ()

    @abstractmethod
    def spec(self) -> LossSpec:
        """Return what it reads and needs."""

    @abstractmethod
    def loss(self, scored: Scored) -> LossOutput:
        """Return the loss of one micro-batch: a sum; it is divided by the units of the global batch."""

    def made(self) -> Objective:
        """Return what `spec` and `loss` are asked of."""
        return self

    def head(self) -> Head:
        """Return what the model has to end with."""
        return "lm"

    def logit_temperature(self) -> float:
        """Return what logits are divided by, wherever log-probabilities are computed."""
        return 1.0

    def reference_folder(self) -> str | None:
        """Return the HF folder of a frozen second model, for `logprobs(which="reference")`; None: it asks for none."""
        return None

    def teacher_folder(self) -> str | None:
        """Return the HF folder of a frozen second model whose logits are learned; None: it asks for none."""
        return None

    def score_outputs(self) -> Mapping[str, float]:
        """Return a new score head's outputs with their weights in the score; none: it has one output, the score."""
        return {}


@dataclass(frozen=True, slots=True)
class OwnObjective(Objective):
    """A user's own, in place of a stage's; on every rank its class is loaded from its file.

    Attributes:
        kind: where that is.
        settings: what it takes by name.
        shipped: what the stage would train for, whose models and temperature it has.
    """

    kind: str
    settings: Mapping[str, Any]
    shipped: Objective

    def made(self) -> Objective:
        """Return the user's.

        Raises:
            CascadeError: its class can't be made, isn't one of a policy's objectives, or can't say what it reads.
        """
        with Attempt(Exception) as attempt:
            made = load_plugin(self.kind)(**self.settings)
            if not isinstance(made, Objective) or made.head() != self.shipped.head():
                limit = f"a class below nemo_cascade.losses.objective.Objective whose head is {self.shipped.head()!r}"
                raise CascadeError("this is no objective of the stage", value=self.kind, limit=limit)
            made.spec()
            return made
        if isinstance(attempt.error, CascadeError):
            raise attempt.error
        why = f"{self.kind}: {type(attempt.error).__name__}: {attempt.error}"
        raise CascadeError("an objective can't be made", value=why) from attempt.error

    def spec(self) -> LossSpec:
        """Return what the user's reads and needs."""
        return self.made().spec()

    def loss(self, scored: Scored) -> LossOutput:
        """Return the user's loss."""
        return self.made().loss(scored)

    def head(self) -> Head:
        """Return what the stage's model ends with."""
        return self.shipped.head()

    def logit_temperature(self) -> float:
        """Return the stage's."""
        return self.shipped.logit_temperature()

    def reference_folder(self) -> str | None:
        """Return the stage's."""
        return self.shipped.reference_folder()

    def teacher_folder(self) -> str | None:
        """Return the stage's."""
        return self.shipped.teacher_folder()
