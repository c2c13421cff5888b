"""What a model says of a micro-batch, as losses ask for it. T: tokens of this rank, N of them trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_cascade.errors import TrainingError
from nemo_cascade.losses.correction import Documents
from nemo_cascade.losses.output import LossOutput
from nemo_cascade.models.axes import Axes, Axis
from nemo_cascade.training.logit_kl import forward_kl
from nemo_cascade.training.logprobs import label_logprobs
from nemo_cascade.training.micro_batch import MicroBatch
from nemo_cascade.training.precision import Padding


@dataclass(frozen=True, slots=True)
class LastStates:
    """What a language model ends with here: logits are made of it where they are used up.

    Attributes:
        hidden_1TH: [1, T, H] behind the last norm.
        weight: [V, H] of the output layer, this rank's rows.
    """

    hidden_1TH: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Scoring:
    """How last states become log-probabilities.

    Attributes:
        vocab_size: true size; the model's padding behind it takes no part.
        temperature: divides the logits.
        padding: of micro-batches.
        axes: this rank's place.
    """

    vocab_size: int
    temperature: float
    padding: Padding
    axes: Axes

    def logprobs(self, last: LastStates, batch: MicroBatch, *, entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Return log-probability of each label and the entropy, [T] float32."""
        return label_logprobs(
            last.hidden_1TH[0],
            last.weight,
            batch.labels,
            vocab_size=self.vocab_size,
            temperature=self.temperature,
            group=self.axes["tp"].group,
            entropy=entropy,
        )


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """One micro-batch, scored.

    Attributes:
        last: what the last stage ends with: LastStates, or a reward model's outputs [1, T, K].
        batch: the micro-batch.
        scoring: how logits become log-probabilities.
        weights_K: of a reward model's outputs in its score; None of a language model.
        taught: a teacher's last states of the trained tokens, by micro-batch; without a teacher empty.
    """

    last: Any
    batch: MicroBatch
    scoring: Scoring
    weights_K: Tensor | None
    taught: Sequence[LastStates]

    @property
    def loss_mask(self) -> Tensor:
        """[T], 1 where the label is trained."""
        return self.batch.loss_mask

    @property
    def extras(self) -> Mapping[str, Tensor]:
        """Further [T]."""
        return self.batch.extras

    @property
    def documents(self) -> Documents:
        """The documents of the tokens."""
        return Documents(self.batch.document, self.batch.cu_seqlens.numel() - 1, self.batch.over_context)

    def logprobs(self, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return log-probability of each label and the entropy, [T] float32."""
        return self.scoring.logprobs(self.last, self.batch, entropy=entropy)

    def trained_logprobs(self) -> Tensor:
        """Return log-probability of the trained labels, at temperature 1, [N] float32."""
        own, labels_N = at_trained(self.last, self.batch), self.batch.labels[self.batch.loss_mask > 0]
        logprob_N, _ = label_logprobs(
            own.hidden_1TH[0],
            own.weight,
            labels_N,
            vocab_size=self.scoring.vocab_size,
            group=self.scoring.axes["tp"].group,
            entropy=False,
        )
        return logprob_N

    def teacher_kl(self, temperature: float) -> Tensor:
        """Return KL(teacher || model) at each trained token, [N]."""
        if not self.taught:
            raise TrainingError("the loss reads a teacher's logits, and the stage has no such teacher")
        own, theirs = at_trained(self.last, self.batch), self.taught[self.batch.number]
        return forward_kl(
            own.hidden_1TH[0],
            own.weight,
            theirs.hidden_1TH[0],
            theirs.weight,
            vocab_size=self.scoring.vocab_size,
            temperature=temperature,
            group=self.scoring.axes["tp"].group,
        )

    def outputs(self) -> Tensor:
        """Return a score head's outputs for each document, [D, K]."""
        return document_outputs(self.last, self.batch)

    def scores(self) -> Tensor:
        """Return a reward model's score of each document, [D]."""
        assert self.weights_K is not None, "its model is a reward model"
        return self.outputs() @ self.weights_K

    def at_marks(self, name: str) -> Tensor:
        """Return an extra's value for each document, [D]."""
        marked_T = torch.where(self.batch.loss_mask > 0, self.batch.extras[name], 0.0)
        return self.batch.per_document(marked_T)[self.batch.trained_documents]


def at_trained(last: LastStates, batch: MicroBatch) -> LastStates:
    """Return the states of trained tokens alone: nobody learns from the others, whatever they are."""
    return LastStates(last.hidden_1TH[:, batch.loss_mask > 0], last.weight)


def document_outputs(outputs_1TK: Tensor, batch: MicroBatch) -> Tensor:
    """Return a score head's outputs for each trained document: at its last token, the only one trained."""
    own_TK = torch.where(batch.predicted[:, None] > 0, outputs_1TK[0], 0.0)
    return batch.per_document(own_TK)[batch.trained_documents]


def counted_once(output: LossOutput, context: Axis) -> LossOutput:
    """Return a loss that every context rank has computed in full, so that only the first one's adds to the sums."""
    if context.first:
        return output
    nothing = {name: torch.zeros_like(value) for name, value in output.metrics.items()}
    return LossOutput(output.loss_sum - output.loss_sum.detach(), nothing, output.maxima)
