"""Check a run and show what it would do, and what this machine lacks for it; starts no process and writes nothing.

nemo-cascade plan cascade=nano
nemo-cascade plan cascade=nano --optimize gpus=64
nemo-cascade plan cascade=nano --ranks           # every distinct rank, built without memory
nemo-cascade plan cascade=nano --against runs/nano      # measured beside planned
nemo-cascade plan cascade=nano --calibrate runs/nano    # later plans start from these steps
nemo-cascade plan --published FIGURES.jsonl     # predict published figures, errors by group
nemo-cascade plan --fit FIGURES.jsonl           # cross-validate, fit the factors anew and write them
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.plan import PlannedStage
from nemo_cascade.cascade.power import too_small
from nemo_cascade.cli import against, dry_ranks, optimize, plan_figures
from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.machine_use import show_machine_use
from nemo_cascade.cli.preflight import Preflight, preflight
from nemo_cascade.cli.screen.paper_table import show_beside_paper
from nemo_cascade.cli.screen.terminal import out, table, tell
from nemo_cascade.config.checks.host import resolved_device
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.reading.provenance import config_hash
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START, StageBase
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.fit import padding_note
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.room import weight_bytes
from nemo_cascade.planner.fitted import FOLDER
from nemo_cascade.report.story import held_stage, ways_on_text
from nemo_cascade.rl.rewards import stage_formula

TELLS_FACTS = True
TAKES_OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_overrides(parser)
    figures = parser.add_mutually_exclusive_group()
    figures.add_argument("--published", type=Path, metavar="FILE", help="predict a file of published figures")
    figures.add_argument("--fit", type=Path, metavar="FILE", help="fit the planner's factors to a file of figures")
    figures.add_argument("--optimize", metavar="gpus=N", help="search the fastest layouts of the run on N GPUs")
    figures.add_argument("--ranks", action="store_true", help="build each distinct rank on meta tensors, and compare")
    figures.add_argument("--against", type=Path, metavar="RUN", help="show a run's measurements beside the plan")
    figures.add_argument("--calibrate", type=Path, metavar="RUN", help="make a run's steps what later plans start from")
    parser.add_argument("--into", type=Path, metavar="PATH", help="where --fit and --calibrate write")


def execute(args: argparse.Namespace) -> int:
    """Print the plan of a run that would be accepted where its weights, data and machines are."""
    if args.published is not None:
        return plan_figures.predict_published(args.published)
    if args.fit is not None:
        return plan_figures.fit_published(args.fit, args.into or FOLDER)
    ready = preflight(args.overrides, args.config_dir, elsewhere=True)
    if args.optimize is not None:
        return optimize.show_best(ready, optimize.gpus_of(args.optimize))
    if args.against is not None:
        return against.show_against(ready, args.against)
    if args.calibrate is not None:
        return against.calibrate(ready, args.calibrate, args.into or Path("calibration.json"))
    if args.ranks:
        return dry_ranks.show_ranks(ready)
    show(ready)
    return 0


def as_facts(ready: Preflight) -> dict[str, Any]:
    """Return a checked run as plain data."""
    config = ready.config
    stages = [
        {
            "name": p.name,
            "kind": p.kind,
            "parent": p.parent,
            "folder": str(p.folder),
            **asdict(p.stage.size()),
            "lr": _lr(p.stage),
        }
        for p in ready.stages
    ]
    return {
        "name": config.name,
        "folder": str(ready.folder),
        "resumes": ready.resumes,
        "configuration": config_hash(config),
        "seed": config.seed,
        "model": {
            "name": config.model.name,
            "source": config.model.source,
            "described": ready.architecture.described(),
        },
        "stages": stages,
        "suites": {domain: suite.path for domain, suite in config.evaluation.suites.items()},
        "lacking": [str(problem) for problem in ready.lacking],
    }


def show(ready: Preflight) -> None:
    """Print a checked run: what, on what, stage by stage."""
    tell(**as_facts(ready))
    config, model = ready.config, ready.architecture
    parallel, rollout = config.parallel, config.rollout
    folder = RunFolder(ready.folder)
    held = held_stage(folder) if ready.resumes else None
    state = "new" if not ready.resumes else f"held after {held[0]}" if held else "goes on where it stopped"
    facts = table(f"run {escape(config.name)}", "", "")
    facts.add_row("folder", f"{escape(str(ready.folder))} ({state})")
    facts.add_row("configuration", f"{config_hash(config)}, seed {config.seed}")
    facts.add_row(
        "model",
        f"{escape(config.model.name)}: {escape(model.described())}, "
        f"vocabulary {model.vocab_size if model.vocab_size > 1 else 'of its tokenizer'}, source {config.model.source}",
    )
    fp8 = f" with fp8 {config.precision.fp8}" if config.precision.fp8 != "off" else ""
    facts.add_row("policy", f"{_layout(parallel)}, {config.precision.dtype}{fp8}")
    if note := padding_note(model, parallel):
        facts.add_row("", note)
    for name, stage in config.stages.items():
        if (layout := stage.layout(config)) is not parallel:
            facts.add_row("", f"{name}: {_layout(layout)}")
    facts.add_row(
        "engines",
        f"{rollout.num_engines} x TP {rollout.tensor_parallel_size}, {rollout.placement}, {rollout.dtype}, "
        f"prompt and response up to {rollout.max_model_len} tokens",
    )
    if any(use.role == "reward" for stage in config.stages.values() for use in stage.models()):
        facts.add_row(
            "reward model", f"{config.scorer.num_replicas} x TP {config.scorer.tensor_parallel_size} in service"
        )
    for name, stage in config.stages.items():
        if told := teachers_told(config, stage, model):
            facts.add_row(f"teachers of {escape(name)}", escape(told))
    facts.add_row("device", f"{resolved_device(config.cluster)}, {config.cluster.num_nodes} machine(s)")
    facts.add_row(
        "data", escape(config.data_dir) + (f", written by prepare={config.prepare}" * (config.prepare != "none"))
    )
    out.print(facts)
    if held:
        ways = ways_on_text(folder, held[0])
        out.print(escape(f"held after {held[0]}: {held[1].reason}{ways}"), soft_wrap=True)
    out.print()
    stages = table("stages", "##", "stage", "kind", "steps#", "batch", "tokens/step#", "length#", "lr#", "promise")
    for planned in ready.stages:
        stages.add_row(*_row(planned))
    out.print(stages)
    out.print()
    data = table("data", "stage", "domain", "set", "schema", "use")
    for planned in ready.stages:
        for use in planned.stage.reads():
            if use.role in ("sft", "pairs", "prompts"):
                words = (use.domain, _set(use.source), use.source.schema, use.use)
                data.add_row(planned.name, *map(escape, words))
    out.print(data)
    out.print()
    rewards = table("rewards and advantages", "stage", "formula")
    for planned in ready.stages:
        if formula := stage_formula(asdict(planned.stage)):
            rewards.add_row(planned.name, escape(formula))
    out.print(rewards)
    out.print()
    _show_suites(config)
    out.print()
    show_machine_use(ready)
    show_beside_paper(ready)
    if ready.lacking:
        out.print()
        out.print("[bold]not on this machine[/] (a run here would be refused):")
        for problem in ready.lacking:
            out.print(f"  {escape(str(problem))}")


def _show_suites(config: RunConfig) -> None:
    """Print what is measured after each stage, and which suites are too small for it."""
    suites = table("after each stage", "domain", "prompts#", "samples#", "verifier", "file")
    for domain, suite in config.evaluation.suites.items():
        samples = f"{'1 of ' * (suite.pick is not None)}{suite.samples_per_prompt}"
        suites.add_row(domain, str(suite.num_prompts), samples, suite.reward.kind, escape(suite.path))
    out.print(suites)
    small = list(too_small(config))
    if small:
        out.print()
        out.print("[bold]suites too small for their promises[/] (the run starts; its gates may miss a fall):")
        for line in small:
            out.print(f"  {escape(line)}", soft_wrap=True)


def teachers_told(config: RunConfig, stage: StageBase, model: Architecture) -> str:
    """Return who teaches a stage, and what the teachers' weights take, each loaded once; empty where nobody does.

    A teacher whose folder isn't here, and every model of the run, is taken to be of the run's architecture.
    """
    layout = stage.teacher_layout(config)
    if layout is None:
        return ""
    domains: dict[str, list[str]] = {}
    for use in stage.models():
        if use.role == "teacher":
            domains.setdefault(use.reference, []).append(use.key.removeprefix("teachers."))
    total = 0
    for reference in domains:
        known = reference not in (START, *config.stages) and (Path(reference) / "config.json").is_file()
        arch = read_architecture(Path(reference), config.model.family) if known else model
        total += weight_bytes(arch, layout.layout, config.precision.dtype)
    who = ", ".join(f"{reference} ({', '.join(taught)})" for reference, taught in domains.items())
    return f"{who}; {total / 2**30:.3g} GiB of weights on each of {_layout(layout)}"


def _layout(parallel: ParallelConfig) -> str:
    layout = parallel.layout
    return f"{layout.ranks} rank{'s' * (layout.ranks > 1)} = {layout}"


def _set(source: DataFileConfig) -> str:
    return f"{source.path} {source.subset or ''}".rstrip()


def _row(planned: PlannedStage) -> tuple[str, ...]:
    stage, size = planned.stage, planned.stage.size()
    numbers = ("-", "-", "-")
    if (trained := stage.trained()) is not None:
        numbers = (f"<= {size.tokens_per_step}", str(size.length), f"{trained.optimizer.lr:g}")
    return (
        str(planned.index),
        planned.name + (f" from {stage.parent}" if stage.parent else ""),
        planned.kind,
        size.planned,
        size.batch,
        *numbers,
        escape(stage.promised()),
    )


def _lr(stage: StageBase) -> float | None:
    trained = stage.trained()
    return None if trained is None else trained.optimizer.lr
