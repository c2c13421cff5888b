"""What stages need and how long they take, as tables."""

from collections.abc import Sequence

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out, table
from nemo_cascade.planner.ranks.memory import GB, Memory
from nemo_cascade.planner.stage_plan import StagePlan

_PHASES = ("generate", "score", "logprob", "train", "sync", "other")


def show_memory(plans: Sequence[StagePlan]) -> None:
    """Print memory of each distinct rank by part and by phase, beside what there is."""
    shown = table("memory of a rank, GB", "stage", "whose", "parts#", "phases#", "peak#", "of#", "")
    for plan in plans:
        for memory in plan.all_memory:
            shown.add_row(escape(plan.name), memory.whose, *_cells(memory))
    out.print(shown)
    for machine in dict.fromkeys((p.job.hardware.name, p.job.hardware.source) for p in plans):
        out.print(f"{machine[0]}: {machine[1]}", soft_wrap=True, markup=False)
    out.print()


def _cells(memory: Memory) -> tuple[str, ...]:
    parts = ", ".join(f"{name} {value / GB:.2f}" for name, value in memory.parts.items() if value >= 0.005 * GB)
    phases = ", ".join(f"{name} {value / GB:.1f}" for name, value in memory.phases.items())
    state = "fits" if memory.peak <= 0.9 * memory.room else "tight" if memory.fits else f"{memory.too_large} too large"
    return parts, phases, f"{memory.peak / GB:.1f}", f"{memory.room / GB:.0f}", state


def show_seconds(plans: Sequence[StagePlan]) -> None:
    """Print seconds of a step by phase, its range, and what follows from it."""
    columns = (
        "stage",
        "seconds of a step#",
        "80 % lie in#",
        "by phase",
        "MFU#",
        "tokens/s/GPU#",
        "steps#",
        "GPU hours#",
        "cost#",
    )
    shown = table("time, of steps that aren't measured yet", *columns)
    total_hours = total_gpu_hours = 0.0
    for plan in plans:
        phases = ", ".join(f"{name} {plan.seconds[name]:.3g}" for name in _PHASES if name in plan.seconds)
        total_hours, total_gpu_hours = total_hours + (plan.hours or 0), total_gpu_hours + (plan.gpu_hours or 0)
        cost = "" if plan.cost is None else f"{plan.cost:,.0f}"
        words = (f"{plan.step.value:.3g}", f"{plan.step.low:.3g}-{plan.step.high:.3g}", phases, f"{plan.mfu:.0%}")
        count = "by the data" if plan.steps is None else f"<= {plan.steps}"
        told = "" if plan.gpu_hours is None else f"<= {plan.gpu_hours:,.1f}"
        shown.add_row(escape(plan.name), *words, f"{plan.tokens_per_s:,.0f}", count, told, cost)
    out.print(shown)
    if total_hours:
        out.print(
            f"whole cascade, stages whose steps are known: {total_hours:,.1f} h, {total_hours / 24:.1f} days, "
            f"{total_gpu_hours:,.0f} GPU hours at most",
            markup=False,
        )
    out.print()
