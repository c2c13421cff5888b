"""One optimizer step, and the forward pass without one, over Megatron's pipeline schedules.

Micro-batches -> 1F1B -> sums / global count -> clip -> finite? -> Adam. T: tokens of this rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import tee
from typing import Any

import torch
from torch import Tensor

from nemo_cascade.config.stages.preference_loss import PreferenceLossConfig
from nemo_cascade.errors import TrainingError
from nemo_cascade.losses.correction import Documents
from nemo_cascade.losses.cross_entropy import cross_entropy_loss
from nemo_cascade.losses.distillation import distillation_loss
from nemo_cascade.losses.objective import (
    BradleyTerry,
    LogitDistillation,
    LossSpec,
    Objective,
    PolicyLoss,
    Preference,
    Regression,
    SftLoss,
)
from nemo_cascade.losses.output import LossOutput
from nemo_cascade.losses.policy import policy_loss
from nemo_cascade.losses.preference import preference_loss
from nemo_cascade.losses.reward_model import bradley_terry_loss, regression_loss
from nemo_cascade.losses.units import RATING
from nemo_cascade.models.axes import Axes, Axis
from nemo_cascade.models.megatron import backend
from nemo_cascade.models.megatron.heads import deferred_weight
from nemo_cascade.training.experts import ExpertLoad
from nemo_cascade.training.logit_kl import forward_kl
from nemo_cascade.training.logprobs import label_logprobs
from nemo_cascade.training.micro_batch import MicroBatch, filled_up, longest, on_device
from nemo_cascade.training.optimizer import PolicyOptimizer
from nemo_cascade.training.precision import Padding
from nemo_cascade.training.reduce import all_true, global_counts, reduce_losses
from nemo_cascade.training.setup import StepResult
from nemo_cascade.types import PackedBatch

# backend first: Megatron-Core assumes CUDA while it is imported.
from megatron.core.pipeline_parallel import get_forward_backward_func  # isort: skip

Loss = Callable[[Any, MicroBatch], LossOutput]


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


@dataclass(slots=True)
class Teacher:
    """A frozen model in the layout of the one that is trained, and what it ended with for a step's micro-batches.

    Its logits are made block by block beside the student's: kept until then are the hidden states of trained tokens.

    Attributes:
        chunks: this rank's.
        padding: of micro-batches.
        context: the context-parallel axis.
        said: by micro-batch its last states of the trained tokens; on all but the last pipeline stage empty.
    """

    chunks: Sequence[Any]
    padding: Padding
    context: Axis
    said: list[LastStates] = field(default_factory=list)

    def read(self, batches: Sequence[PackedBatch]) -> None:
        """Run the teacher over a step's micro-batches; collective."""
        every = filled_up(batches, self.padding.group)
        with torch.no_grad():
            self.said = run_schedule(
                self.chunks, every, at_trained, padding=self.padding, context=self.context, forward_only=True
            )


def loss_of(
    objective: Objective, scoring: Scoring, weights: Tensor | None = None, teacher: Teacher | None = None
) -> Loss:
    """Return the loss of an objective.

    Args:
        objective: what is trained for.
        scoring: how logits become log-probabilities.
        weights: [K] of a reward model's outputs in its score; None of a language model.
        teacher: whose logits are learned, where they are.
    """
    match objective:
        case SftLoss():
            return _sft_loss(scoring)
        case LogitDistillation():
            assert teacher is not None, "who distils has a teacher"
            return _distillation_loss(scoring, objective, teacher)
        case PolicyLoss():
            return _reinforcement_loss(scoring, objective)
        case Preference():
            return _preference_loss(scoring, objective.config)
        case BradleyTerry():
            assert weights is not None, "its model is a reward model"
            return _pair_loss(objective, weights)
        case Regression():
            return _rating_loss(objective)


def _sft_loss(scoring: Scoring) -> Loss:
    """Return the loss of supervised fine-tuning: cross entropy on the trained labels."""

    def loss(last: LastStates, batch: MicroBatch) -> LossOutput:
        logprob_T, _ = scoring.logprobs(last, batch, entropy=False)
        return cross_entropy_loss(logprob_T, batch.loss_mask)

    return loss


def at_trained(last: LastStates, batch: MicroBatch) -> LastStates:
    """Return the states of trained tokens alone: nobody learns from the others, whatever they are."""
    return LastStates(last.hidden_1TH[:, batch.loss_mask > 0], last.weight)


def _distillation_loss(scoring: Scoring, objective: LogitDistillation, teacher: Teacher) -> Loss:
    """Return the loss of a student against its teacher, which has read the step's micro-batches."""
    config, group = objective.config, scoring.axes["tp"].group

    def loss(last: LastStates, batch: MicroBatch) -> LossOutput:
        own, theirs = at_trained(last, batch), teacher.said[batch.number]
        kl_N = forward_kl(
            own.hidden_1TH[0],
            own.weight,
            theirs.hidden_1TH[0],
            theirs.weight,
            vocab_size=scoring.vocab_size,
            temperature=config.temperature,
            group=group,
        )
        logprob_N = None
        if config.cross_entropy_weight > 0:
            labels_N = batch.labels[batch.loss_mask > 0]
            logprob_N, _ = label_logprobs(
                own.hidden_1TH[0], own.weight, labels_N, vocab_size=scoring.vocab_size, group=group, entropy=False
            )
        return distillation_loss(kl_N, logprob_N, config)

    return loss


def _reinforcement_loss(scoring: Scoring, objective: PolicyLoss) -> Loss:
    """Return the policy-gradient loss."""
    config, teacher = objective.config, objective.teacher

    def loss(last: LastStates, batch: MicroBatch) -> LossOutput:
        logprob_T, entropy_T = scoring.logprobs(last, batch, entropy=True)
        if config.entropy_coefficient == 0 and entropy_T is not None:
            entropy_T = entropy_T.detach()  # measured only: spares its share of the backward pass
        documents = Documents(batch.document, batch.cu_seqlens.numel() - 1, batch.over_context)
        return policy_loss(logprob_T, entropy_T, batch.loss_mask, documents, batch.extras, config, teacher)

    return loss


def _preference_loss(scoring: Scoring, config: PreferenceLossConfig) -> Loss:
    """Return a policy's loss on pairs; documents come in pairs, the preferred one first."""

    def loss(last: LastStates, batch: MicroBatch) -> LossOutput:
        logprob_T, _ = scoring.logprobs(last, batch, entropy=False)
        documents = Documents(batch.document, batch.cu_seqlens.numel() - 1, batch.over_context)
        output = preference_loss(logprob_T, batch.loss_mask, documents, batch.extras, config)
        return counted_once(output, batch.context)

    return loss


def _pair_loss(objective: BradleyTerry, weights_K: Tensor) -> Loss:
    """Return a reward model's loss on pairs; documents come in pairs, the preferred one first."""

    def loss(outputs_1TK: Tensor, batch: MicroBatch) -> LossOutput:
        chosen_P, rejected_P = (document_outputs(outputs_1TK, batch) @ weights_K).view(-1, 2).unbind(1)
        strength_P = None
        if objective.form != "plain":
            strength_P = _at_marks(batch.extras["strength"], batch).view(-1, 2)[:, 0]
        return counted_once(bradley_terry_loss(chosen_P, rejected_P, strength_P, objective.form), batch.context)

    return loss


def _rating_loss(objective: Regression) -> Loss:
    """Return a reward model's loss on rated attributes."""

    def loss(outputs_1TK: Tensor, batch: MicroBatch) -> LossOutput:
        rated = [_at_marks(batch.extras[RATING + name], batch) for name in objective.attributes]
        outputs_DK = document_outputs(outputs_1TK, batch)
        return counted_once(regression_loss(outputs_DK, torch.stack(rated, 1), objective.attributes), batch.context)

    return loss


def document_outputs(outputs_1TK: Tensor, batch: MicroBatch) -> Tensor:
    """Return a score head's outputs for each trained document: at its last token, the only one trained."""
    own_TK = torch.where(batch.predicted[:, None] > 0, outputs_1TK[0], 0.0)
    return batch.per_document(own_TK)[batch.trained_documents]


def _at_marks(value_T: Tensor, batch: MicroBatch) -> Tensor:
    """Return an extra's value for each trained document."""
    return batch.per_document(torch.where(batch.loss_mask > 0, value_T, 0.0))[batch.trained_documents]


def counted_once(output: LossOutput, context: Axis) -> LossOutput:
    """Return a loss that every context rank has computed in full, so that only the first one's adds to the sums."""
    if context.first:
        return output
    nothing = {name: torch.zeros_like(value) for name, value in output.metrics.items()}
    return LossOutput(output.loss_sum - output.loss_sum.detach(), nothing, output.maxima)


@dataclass(slots=True)
class TrainStep:
    """The training step of one rank.

    Attributes:
        chunks: this rank's, DDP-wrapped.
        optimizer: over their parameters.
        loss: of one micro-batch, as a sum.
        spec: of the loss: what its sum is divided by, what every batch must hold.
        padding: of micro-batches.
        max_skipped: steps that may be skipped before training stops.
        axes: this rank's place.
        experts: the load of the model's experts; of a model without any there is nothing to tell.
        teacher: reads every step's micro-batches first, where the loss is against one.
        skipped: steps skipped so far in this stage.
    """

    chunks: Sequence[Any]
    optimizer: PolicyOptimizer
    loss: Loss
    spec: LossSpec
    padding: Padding
    max_skipped: int
    axes: Axes
    experts: ExpertLoad
    teacher: Teacher | None = None
    skipped: int = 0

    def run(self, batches: Sequence[PackedBatch], step: int) -> StepResult:
        """Train on this rank's share of a global batch; collective.

        Args:
            batches: whole micro-batches of this data-parallel rank, the same on all its TP and PP ranks.
            step: from 0.

        Raises:
            TrainingError: a batch lacks what the loss reads, nothing to train on, or a non-finite step too many.
                Raised on every rank alike.
        """
        self._check_extras(batches, step)
        counts = global_counts(batches, self.spec.unit, step, self.axes)
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        if self.teacher is not None:
            self.teacher.read(batches)
        self.experts.begin(counts.units, counts.tokens)
        outputs = run_schedule(
            self.chunks, batches, self.loss, padding=self.padding, context=self.axes["cp"], forward_only=False
        )
        for chunk in self.chunks:
            chunk.scale_gradients(1.0 / counts.units)
        reduced = reduce_losses(outputs, self.axes)
        grad_norm = self.optimizer.prepare()
        loss = reduced.loss_sum / counts.units
        finite = all_true(math.isfinite(loss) and math.isfinite(grad_norm))
        lr = self.optimizer.apply(step, grad_norm) if finite else 0.0
        told, expert_load = self.experts.end(counts.tokens, finite=finite)
        if not finite:
            self._count_skip(step, loss, grad_norm)
        return StepResult(
            step=step,
            loss=loss,
            grad_norm=grad_norm,
            lr=lr,
            tokens=counts.trained_tokens,
            skipped=not finite,
            metrics={**reduced.metrics, **told, "total_tokens": float(counts.tokens)},
            expert_load=expert_load,
            memory_bytes=backend.peak_memory_bytes(),
        )

    def _check_extras(self, batches: Sequence[PackedBatch], step: int) -> None:
        lacking = sorted({name for batch in batches for name in self.spec.extras - batch.extras.keys()})
        if lacking:
            mend = "the batches must hold what the loss's switches ask for"
            raise TrainingError(f"step {step}: the loss needs further tensors", value=", ".join(lacking), mend=mend)

    def _count_skip(self, step: int, loss: float, grad_norm: float) -> None:
        self.skipped += 1
        if self.skipped > self.max_skipped:
            raise TrainingError(
                f"step {step}: loss or gradient is not finite, and too many steps of this stage were skipped for that",
                value=f"loss {loss}, gradient norm {grad_norm}, {self.skipped} steps",
                limit=f"optimizer.max_skipped_steps = {self.max_skipped}",
                mend="lower optimizer.lr, look at the data of this step, or go back to an earlier checkpoint",
            )


def forward_logprobs(chunks: Sequence[Any], batches: Sequence[PackedBatch], scoring: Scoring) -> list[Tensor]:
    """Score the labels of each micro-batch without gradient; collective.

    Returns:
        One [T] float32 per micro-batch, without padding, on the last pipeline stage; empty elsewhere.
    """

    def score(last: LastStates, batch: MicroBatch) -> Tensor:
        logprob_T, _ = scoring.logprobs(last, batch, entropy=False)
        return batch.whole(logprob_T)

    with torch.no_grad():
        return run_schedule(
            chunks, batches, score, padding=scoring.padding, context=scoring.axes["cp"], forward_only=True
        )


def forward_outputs(
    chunks: Sequence[Any], batches: Sequence[PackedBatch], padding: Padding, axes: Axes
) -> list[Tensor]:
    """Have a score head judge the documents of each micro-batch, without gradient; collective.

    Returns:
        One [documents, outputs] float32 per micro-batch on the last pipeline stage; empty elsewhere.
    """
    with torch.no_grad():
        return run_schedule(chunks, batches, document_outputs, padding=padding, context=axes["cp"], forward_only=True)


def run_schedule(
    chunks: Sequence[Any],
    batches: Sequence[PackedBatch],
    finish: Callable[[Any, MicroBatch], Any],
    *,
    padding: Padding,
    context: Axis,
    forward_only: bool,
) -> list[Any]:
    """Run Megatron's schedule for this layout: one pass after the other, 1F1B over pipeline stages, or interleaved.

    Args:
        chunks: this rank's, from the embedding upwards.
        batches: micro-batches; all stages need them, for their document boundaries.
        finish: turns what the last stage ends with (LastStates, or a reward model's scores [1, T, 1]) into its result,
            a LossOutput where gradients are wanted.
        padding: of micro-batches.
        context: the context-parallel axis.
        forward_only: no backward pass.

    Returns:
        What `finish` returned per micro-batch, its loss detached; empty on all but the last stage.
    """
    every = filled_up(batches, padding.group)

    def forward_step(iterator: Iterator[MicroBatch], chunk: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
        batch = next(iterator)
        output = chunk(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=None,
            packed_seq_params=batch.packed,
        )
        return output, partial(_finish, finish, batch, deferred_weight(chunk))

    schedule = get_forward_backward_func()
    results: list[Any] = schedule(
        forward_step_func=forward_step,
        data_iterator=list(tee(on_device(every, padding, context), len(chunks))),
        model=list(chunks),
        num_microbatches=len(every),
        seq_length=longest(every, padding),
        micro_batch_size=1,
        forward_only=forward_only,
    )
    return results[: len(batches)]


def _finish(
    finish: Callable[[Any, MicroBatch], Any], batch: MicroBatch, weight: Tensor | None, output_1T: Tensor
) -> tuple[Tensor, Tensor, Any]:
    """Answer as Megatron expects: (loss sum, unit count, what to keep). The count is ours, so Megatron's is 0."""
    result = finish(output_1T if weight is None else LastStates(output_1T, weight), batch)
    none = torch.zeros((), dtype=torch.int32, device=output_1T.device)
    if isinstance(result, LossOutput):
        kept = LossOutput(result.loss_sum.detach(), result.metrics, result.maxima)
        return result.loss_sum, none, kept
    return output_1T.new_zeros(()), none, result
