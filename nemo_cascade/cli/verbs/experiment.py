"""Run the arms of an experiment one after the other and write the page that compares them; again, it goes on.

nemo-cascade experiment rlhf_or_if_first
nemo-cascade experiment forgetting --seeds 0 1 2 3
nemo-cascade experiment forgetting seed=1 runs_dir=runs/seed1
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cascade.experiments import (
    Experiment,
    arm_overrides,
    chosen_seeds,
    experiment_names,
    read_experiment,
    seed_overrides,
)
from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.preflight import Preflight, preflight
from nemo_cascade.cli.screen.terminal import out, tell
from nemo_cascade.cli.verbs import run
from nemo_cascade.config.reading.compose import compose

TELLS_FACTS = True
TAKES_OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "name", metavar="NAME", help=f"{', '.join(experiment_names())}, or a .yaml file; overrides are for all arms"
    )
    parser.add_argument(
        "--seeds", nargs="+", metavar="SEED", help="run every arm with each; default: the experiment's own"
    )
    parser.add_argument("--dry", action="store_true", help="check all arms and show their plans, start nothing")
    add_overrides(parser)


def execute(args: argparse.Namespace) -> int:
    """Check every arm with every seed, run each to its end, and compare; an arm that ends early ends the experiment."""
    from nemo_cascade.cascade.fork import check_fork

    experiment = read_experiment(args.name)
    # Overrides may stand behind the seeds, which end with the first that is no number.
    words = args.seeds or []
    seeds = [int(word) for word in words if word.isdecimal()]
    args.overrides = [*args.overrides, *(word for word in words if not word.isdecimal())]
    told: dict[int | None, dict[str, list[str]]] = {}
    ready: dict[int | None, dict[str, Preflight]] = {}
    for seed in chosen_seeds(experiment, seeds or None, args.overrides):
        told[seed], ready[seed] = {}, {}
        for arm, entry in experiment.arms.items():
            overrides = arm_overrides(args.name, arm, entry.overrides, args.overrides)
            if seed is not None:
                overrides = seed_overrides(overrides, compose(overrides, args.config_dir)[0], seed)
            told[seed][arm], ready[seed][arm] = overrides, preflight(overrides, args.config_dir)
            if entry.fork:
                check_fork(ready[seed][entry.fork.of].config, ready[seed][arm].config, entry.fork.at)
    for seed, arms in ready.items():
        for arm, entry in experiment.arms.items():
            out.print(f"[bold]{escape(arm)}[/]" + f", seed {seed}" * (seed is not None))
            arm_args = argparse.Namespace(overrides=told[seed][arm], config_dir=args.config_dir, dry=args.dry)
            if entry.fork and not args.dry:
                _fork(arms[entry.fork.of].folder, entry.fork.at, arms[arm])
            if code := run.execute(arm_args):
                return code
        if not args.dry:
            _compare(args.name, experiment.question, [entry.folder for entry in arms.values()])
    if not args.dry and len(ready) > 1:
        _over_seeds(args.name, experiment, ready)
    return 0


def _fork(origin: Path, at: str, ready: Preflight) -> None:
    from nemo_cascade.cascade.fork import fork_run

    fork_run(origin, at, ready.config, ready.provenance)


def _compare(name: str, question: str, folders: list[Path]) -> None:
    from nemo_cascade.report.compare import write_comparison

    title = Path(name).stem
    page = write_comparison(folders, folders[0].parent / f"{title}.html", title=title, question=question)
    tell(comparison=str(page))
    out.print(f"comparison: {escape(str(page))}", soft_wrap=True)


def _over_seeds(name: str, experiment: Experiment, ready: Mapping[int | None, Mapping[str, Preflight]]) -> None:
    from nemo_cascade.report.seeds import write_over_seeds

    title, first = Path(name).stem, next(iter(ready.values()))
    folders = {seed: [entry.folder for entry in arms.values()] for seed, arms in ready.items() if seed is not None}
    target = next(iter(first.values())).folder.parent / f"{title}-over-seeds.html"
    page = write_over_seeds(folders, list(experiment.arms), target, title=title, question=experiment.question)
    tell(over_seeds=str(page))
    out.print(f"over seeds: {escape(str(page))}", soft_wrap=True)
