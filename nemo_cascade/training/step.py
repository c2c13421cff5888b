"""One optimizer step, and the forward pass without one, over Megatron's pipeline schedules.

Micro-batches -> 1F1B -> sums / global count -> clip -> finite? -> Adam. T: tokens of this rank.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import tee
from typing import Any

import torch
from torch import Tensor

from nemo_cascade.errors import TrainingError
from nemo_cascade.losses.objective import LossSpec, Objective
from nemo_cascade.losses.output import LossOutput
from nemo_cascade.models.axes import Axes, Axis
from nemo_cascade.models.megatron import backend
from nemo_cascade.models.megatron.heads import deferred_weight
from nemo_cascade.training.experts import ExpertLoad
from nemo_cascade.training.micro_batch import MicroBatch, filled_up, longest, on_device
from nemo_cascade.training.optimizer import PolicyOptimizer
from nemo_cascade.training.precision import Padding
from nemo_cascade.training.reduce import all_true, global_counts, reduce_losses
from nemo_cascade.training.scoring.scored import (
    LastStates,
    ScoredBatch,
    Scoring,
    at_trained,
    counted_once,
    document_outputs,
)
from nemo_cascade.training.setup import StepResult
from nemo_cascade.types import PackedBatch

# backend first: Megatron-Core assumes CUDA while it is imported.
from megatron.core.pipeline_parallel import get_forward_backward_func  # isort: skip

Loss = Callable[[Any, MicroBatch], LossOutput]


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
    objective: Objective, scoring: Scoring, weights_K: Tensor | None = None, teacher: Teacher | None = None
) -> Loss:
    """Return the loss of an objective.

    Args:
        objective: what is trained for.
        scoring: how logits become log-probabilities.
        weights_K: of a reward model's outputs in its score; None of a language model.
        teacher: whose logits are learned, where they are.
    """
    made = objective.made()
    whole = made.spec().whole_documents

    def loss(last: Any, batch: MicroBatch) -> LossOutput:
        taught = [] if teacher is None else teacher.said
        output = made.loss(ScoredBatch(last, batch, scoring, weights_K, taught))
        return counted_once(output, batch.context) if whole else output

    return loss


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
        finish: turns what the last stage ends with (LastStates, or a reward model's outputs [1, T, K]) into its result,
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
