"""Numbers that all ranks must agree on: unit counts, losses, metrics, whether a step is finite."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from nemo_cascade.errors import TrainingError
from nemo_cascade.losses.output import LossOutput
from nemo_cascade.losses.units import Aggregation, count_units
from nemo_cascade.models.axes import Axes
from nemo_cascade.models.megatron import backend
from nemo_cascade.types import PackedBatch


@dataclass(frozen=True, slots=True)
class GlobalCounts:
    """Counts over the whole global batch.

    Attributes:
        units: what the loss sum is divided by (trained tokens, responses, or pairs).
        trained_tokens: labels that are trained.
        tokens: all tokens, prompt and padding between documents included.
    """

    units: int
    trained_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ReducedLoss:
    """Loss and metrics of the whole global batch, the same on every rank."""

    loss_sum: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


def global_counts(batches: Sequence[PackedBatch], aggregation: Aggregation, step: int, axes: Axes) -> GlobalCounts:
    """Count over all data-parallel ranks.

    Args:
        batches: this rank's micro-batches, whole (not a pipeline stage's share).
        aggregation: unit of the loss.
        step: for the error.
        axes: this rank's place.

    Raises:
        TrainingError: the ranks have different numbers of micro-batches or none, or nothing is trained.
    """
    number = len(batches)
    local = (
        sum(count_units(batch, aggregation) for batch in batches),
        sum(count_units(batch, "token") for batch in batches),
        sum(batch.num_tokens for batch in batches),
        number,
        number * number,
    )
    total = torch.tensor(local, dtype=torch.int64, device=backend.device())
    replicas = axes["dp"]
    dist.all_reduce(total, group=replicas.group)
    units, trained, tokens, numbers, squares = (int(x) for x in total.tolist())
    # The mean of squares equals the square of the mean only where all are equal.
    if numbers == 0 or squares * replicas.size != numbers * numbers:
        raise TrainingError(
            f"step {step}: every data-parallel rank needs as many micro-batches as the others, at least one",
            value=f"{number} here, {numbers} on {replicas.size} ranks together",
        )
    if units == 0:
        raise TrainingError(
            f"step {step}: no token of the global batch is trained", mend="look at the data: nothing in it has a loss"
        )
    return GlobalCounts(units, trained, tokens)


def reduce_losses(outputs: Sequence[LossOutput], axes: Axes) -> ReducedLoss:
    """Add up losses and metrics of all micro-batches and data-parallel ranks and tell every pipeline stage.

    Args:
        outputs: one per micro-batch on the last pipeline stage, none elsewhere.
        axes: this rank's place.

    Returns:
        The same on every rank. A metric without a single count is left out.
    """
    payload: list[Any] = [None]
    stages = axes["pp"]
    if stages.last:
        payload = [_over_data_parallel(outputs, axes["dp_cp"].group)]
    if stages.size > 1:
        dist.broadcast_object_list(payload, src=stages.ranks[-1], group=stages.group, device=backend.device())
    assert isinstance(payload[0], ReducedLoss)
    return payload[0]


def all_true(flag: bool) -> bool:
    """Return whether the flag is set on every rank."""
    agreed = torch.tensor(int(flag), dtype=torch.int32, device=backend.device())
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed.item())


def _over_data_parallel(outputs: Sequence[LossOutput], group: Any) -> ReducedLoss:
    names, maxima_names = sorted(outputs[0].metrics), sorted(outputs[0].maxima)
    # float64: the split into micro-batches and ranks must not show in the last digits.
    sums = torch.zeros((len(names) + 1, 2), dtype=torch.float64, device=backend.device())
    for output in outputs:
        sums[0, 0] += output.loss_sum.double()
        for row, name in enumerate(names, 1):
            sums[row] += output.metrics[name]
    dist.all_reduce(sums, group=group)
    (loss_sum, _), *pairs = sums.tolist()
    metrics = {name: total / count for name, (total, count) in zip(names, pairs, strict=True) if count}
    if maxima_names:
        stacked = [torch.stack([output.maxima[name].double() for output in outputs]).max() for name in maxima_names]
        maxima = torch.stack(stacked)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX, group=group)
        metrics.update(zip(maxima_names, maxima.tolist(), strict=True))
    return ReducedLoss(loss_sum, metrics)
