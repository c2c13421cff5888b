"""What a checked run needs of its machine, and whether it fits: shown by `plan`, asked before `run`."""

from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.preflight import Preflight
from nemo_cascade.cli.screen.stage_table import show_memory, show_seconds
from nemo_cascade.cli.screen.terminal import out
from nemo_cascade.config.checks.host import resolved_device
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import TrainedStage
from nemo_cascade.errors import ConfigError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.planner.fit_run import misfits, plan_run
from nemo_cascade.planner.measured import load_calibration
from nemo_cascade.planner.regression import Figures
from nemo_cascade.planner.stage_plan import StagePlan


def trained_architectures(ready: Preflight) -> dict[str, Architecture]:
    """Return what each stage trains; a stage that trains nothing, or a model that isn't here, is left out."""
    found: dict[str, Architecture] = {}
    for name, stage in ready.config.stages.items():
        if stage.trained() is None:
            continue
        start = next((use.reference for use in stage.models() if use.role == "start"), None)
        if start is None:
            found[name] = ready.architecture
        elif (Path(start) / "config.json").is_file():
            found[name] = read_architecture(Path(start), ready.config.model.family)
    return found


def trained(config: RunConfig, name: str) -> TrainedStage:
    """Return a stage whose ranks train."""
    stage = config.stages[name].trained()
    assert stage is not None, name
    return stage


def own_figures(config: RunConfig) -> Figures | None:
    """Return what was measured on the user's own machine, where a calibration is named."""
    return None if config.hardware.calibration is None else load_calibration(Path(config.hardware.calibration))


def planned_use(ready: Preflight) -> list[StagePlan]:
    """Plan every stage whose model is known."""
    return plan_run(ready.config, trained_architectures(ready), ready.config.hardware, own_figures(ready.config))


def refuse_misfits(ready: Preflight) -> None:
    """Refuse a run on GPUs that doesn't fit; a host's memory is no fixed limit, so a run on a CPU is only told of it.

    Raises:
        ConfigError: stages that don't fit, each with the part that is too large and settings that fit.
    """
    if ready.config.hardware.generation == "cpu":
        return
    if wrong := misfits(ready.config, planned_use(ready), trained_architectures(ready)):
        raise ConfigError(wrong)


def show_machine_use(ready: Preflight) -> None:
    """Print memory and seconds of every stage.

    Raises:
        ConfigError: stages that don't fit, each with the part that is too large and settings that fit.
    """
    config = ready.config
    if resolved_device(config.cluster) == "gpu" and config.hardware.generation == "cpu":
        out.print(
            "[bold]memory and time[/]: not planned; hardware=h100 (or another of conf/hardware) says what GPU it is"
        )
        return
    plans = planned_use(ready)
    show_memory(plans)
    show_seconds(plans)
    if unknown := [name for name in config.stages if name not in {plan.name for plan in plans}]:
        out.print(f"not planned, no model's sizes at hand: {escape(', '.join(unknown))}")
    refuse_misfits(ready)
