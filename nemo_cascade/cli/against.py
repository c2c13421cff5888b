"""`nemo-cascade plan --against RUN` and `--calibrate RUN`: measurements beside the plan, and for later plans."""

from pathlib import Path

import numpy as np
from rich.markup import escape

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cli.machine_use import own_figures, planned_use
from nemo_cascade.cli.preflight import Preflight
from nemo_cascade.cli.screen.terminal import out, table
from nemo_cascade.errors import RunFolderError
from nemo_cascade.planner.job import Job
from nemo_cascade.planner.measured import (
    MeasuredStage,
    as_measured,
    measured_stage,
    save_calibration,
    training_estimate,
    training_figures,
)
from nemo_cascade.planner.ranks.memory import GB
from nemo_cascade.telemetry.metrics import read_metrics


def measured_of(ready: Preflight, run: Path) -> list[tuple[Job, MeasuredStage]]:
    """Return the stages that the run measured, each with the job that its plan makes of it.

    Raises:
        RunFolderError: it holds no measured step of a stage of this configuration.
    """
    jobs = {plan.name: plan.job for plan in planned_use(ready)}
    found = []
    for stage in RunFolder(run).stages():
        measured = measured_stage(stage.name, read_metrics(stage.metrics)) if stage.name in jobs else None
        if measured is not None and measured.seconds.get("train"):
            found.append((as_measured(jobs[stage.name], measured), measured))
    if not found:
        raise RunFolderError(
            "the run has no measured step of this configuration's stages",
            value=run,
            mend="name a run of this configuration that has trained a step",
        )
    return found


def show_against(ready: Preflight, run: Path) -> int:
    """Print planned beside measured seconds of training, and memory where it was logged."""
    plans = {plan.name: plan for plan in planned_use(ready)}
    shown = table("planned and measured", "stage", "phase", "planned#", "80 % lie in#", "measured#", "difference#")
    for job, measured in measured_of(ready, run):
        planned = training_estimate(job, own_figures(ready.config))
        seconds = measured.seconds["train"]
        bounds = f"{planned.low:.3g}-{planned.high:.3g}"
        off = f"{planned.value / seconds - 1:+.0%}"
        name = escape(measured.name)
        shown.add_row(name, "train, s", f"{planned.value:.3g}", bounds, f"{seconds:.3g}", off)
        for phase, value in measured.seconds.items():
            if phase != "train" and (own := plans[measured.name].seconds.get(phase)):
                shown.add_row(name, f"{phase}, s", f"{own:.3g}", "", f"{value:.3g}", f"{own / value - 1:+.0%}")
        if measured.memory is not None:
            own = max(memory.trained for memory in plans[measured.name].memory)
            gap = f"{own / measured.memory - 1:+.0%}"
            shown.add_row(name, "memory, GB", f"{own / GB:.2f}", "", f"{measured.memory / GB:.2f}", gap)
    out.print(shown)
    return 0


def calibrate(ready: Preflight, run: Path, into: Path) -> int:
    """Write the run's measured training steps for later plans (`hardware.calibration`), and say what they change."""
    found = measured_of(ready, run)
    jobs, seconds = [job for job, _ in found], [measured.seconds["train"] for _, measured in found]
    figures = training_figures(jobs, seconds)
    before = [training_estimate(job, None) for job in jobs]
    after = [training_estimate(job, figures) for job in jobs]
    save_calibration(into, figures, {"run": str(run), "machine": ready.config.hardware.name})
    shown = table("training step, seconds", "stage", "measured#", "planned before#", "80 % in#", "after#", "80 % in#")
    for (_, measured), old, new in zip(found, before, after, strict=True):
        cells = (f"{measured.seconds['train']:.3g}", f"{old.value:.3g}", f"{old.low:.3g}-{old.high:.3g}")
        shown.add_row(escape(measured.name), *cells, f"{new.value:.3g}", f"{new.low:.3g}-{new.high:.3g}")
    out.print(shown)
    narrower = float(np.mean([old.spread / new.spread for old, new in zip(before, after, strict=True)]))
    out.print(
        f"ranges are {narrower:.1f} times narrower; written: hardware.calibration={into}", soft_wrap=True, markup=False
    )
    return 0
