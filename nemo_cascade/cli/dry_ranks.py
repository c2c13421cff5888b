"""`nemo-cascade plan --ranks`: each distinct rank of a run, built on meta tensors, beside what the planner counts."""

from collections.abc import Iterator
from typing import Any

from rich.markup import escape

from nemo_cascade.cli.machine_use import trained, trained_architectures
from nemo_cascade.cli.preflight import Preflight
from nemo_cascade.cli.screen.terminal import out, table
from nemo_cascade.config.layout import Layout
from nemo_cascade.errors import TrainingError
from nemo_cascade.planner.ranks.parameters import rank_bytes, stage_parameters


def distinct_ranks(layout: Layout) -> Iterator[tuple[int, int, int]]:
    """Yield (global rank, pipeline stage, data-parallel replica) of ranks that differ in what they hold.

    Ranks of one pipeline stage hold equally much but for their share of the optimizer, of which the first replica's
    is the fullest and the last one's ends in padding. Megatron counts ranks by TP, then CP, DP and PP.
    """
    within = layout.tp * layout.cp * layout.dp
    replicas = layout.cp * layout.dp
    for stage in range(layout.pp):
        for replica in sorted({0, replicas - 1}):
            yield stage * within + replica * layout.tp, stage, replica


def show_ranks(ready: Preflight) -> int:
    """Print the ranks.

    Raises:
        TrainingError: what was built differs from what the planner counts.
    """
    from nemo_cascade.training.dry_rank import dry_rank

    config = ready.config
    half = config.precision.dtype == "bf16"
    differ: list[str] = []
    done: dict[Any, str] = {}
    for name, arch in trained_architectures(ready).items():
        parallel = trained(config, name).layout(config)
        if (arch, parallel) in done:
            out.print(f"{name}: the same ranks as {done[arch, parallel]}", markup=False)
            continue
        done[arch, parallel] = name
        layout, sharded = parallel.layout, parallel.use_distributed_optimizer
        columns = (
            "rank#",
            "pipeline stage#",
            "parameters#",
            "weights, bytes#",
            "gradients#",
            "optimizer#",
            "planned#",
            "",
        )
        shown = table(f"{name}: distinct ranks of {layout.ranks}", *columns)
        for rank, stage, replica in distinct_ranks(layout):
            built = dry_rank(rank, arch, config.model, parallel, config.precision)
            chunks = stage_parameters(arch, layout, stage, config.model.make_vocab_size_divisible_by)
            planned = rank_bytes(chunks, layout, half=half, sharded=sharded, stage=stage, replica=replica)
            same = (built.weights, built.gradients, built.optimizer) == (
                planned.weights,
                planned.gradients,
                planned.optimizer,
            )
            if not same:
                differ.append(
                    f"rank {rank}: built {built.weights}, {built.gradients}, {built.optimizer}; planned {planned}"
                )
            shown.add_row(
                str(rank), str(stage), f"{sum(built.elements):,}", f"{built.weights:,}", f"{built.gradients:,}",
                f"{built.optimizer:,}", f"{planned.total:,}", "equal" if same else "differ",
            )  # fmt: skip
        out.print(shown)
    if differ:
        what, mend = "ranks are built otherwise than planned", "report it: the planner counts them wrongly"
        raise TrainingError(what, value=escape("; ".join(differ)), mend=mend)
    return 0
