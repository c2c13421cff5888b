"""Run the arms of an experiment one after the other and write the page that compares them; again, it goes on.

nemo-cascade experiment rlhf_or_if_first
nemo-cascade experiment forgetting seed=1 runs_dir=runs/seed1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cascade.experiments import arm_overrides, experiment_names, read_experiment
from nemo_cascade.cli import run
from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.preflight import Preflight, preflight
from nemo_cascade.cli.terminal import out

TAKES_OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "name", metavar="NAME", help=f"{', '.join(experiment_names())}, or a .yaml file; overrides are for all arms"
    )
    parser.add_argument("--dry", action="store_true", help="check all arms and show their plans, start nothing")
    add_overrides(parser)


def execute(args: argparse.Namespace) -> int:
    """Check every arm, run each to its end, and compare them; an arm that ends early ends the experiment."""
    from nemo_cascade.cascade.fork import check_fork

    experiment = read_experiment(args.name)
    told: dict[str, list[str]] = {}
    ready: dict[str, Preflight] = {}
    for arm, entry in experiment.arms.items():
        told[arm] = arm_overrides(args.name, arm, entry.overrides, args.overrides)
        ready[arm] = preflight(told[arm], args.config_dir)
        if entry.fork:
            check_fork(ready[entry.fork.of].config, ready[arm].config, entry.fork.at)
    for arm, entry in experiment.arms.items():
        out.print(f"[bold]{escape(arm)}[/]")
        arm_args = argparse.Namespace(overrides=told[arm], config_dir=args.config_dir, dry=args.dry)
        if entry.fork and not args.dry:
            _fork(ready[entry.fork.of].folder, entry.fork.at, ready[arm])
        if code := run.execute(arm_args):
            return code
    if not args.dry:
        _compare(args.name, experiment.question, [entry.folder for entry in ready.values()])
    return 0


def _fork(origin: Path, at: str, ready: Preflight) -> None:
    from nemo_cascade.cascade.fork import fork_run

    fork_run(origin, at, ready.config, ready.provenance)


def _compare(name: str, question: str, folders: list[Path]) -> None:
    from nemo_cascade.cascade.compare import write_comparison

    title = Path(name).stem
    page = write_comparison(folders, folders[0].parent / f"{title}.html", title=title, question=question)
    out.print(f"comparison: {escape(str(page))}")
