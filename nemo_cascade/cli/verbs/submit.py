"""Submit a cascade to Slurm as one job that goes on by itself after wall times and lost nodes; ask about it; end it.

nemo-cascade submit cascade=nemotron_cascade/8b cluster=dgx_h100 cluster.num_nodes=10 slurm.account=research
nemo-cascade submit cascade=nano --dry
nemo-cascade submit --status runs/nano
"""

import argparse
import os
from collections import deque
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.preflight import Preflight, preflight
from nemo_cascade.cli.screen.terminal import out, tell
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.slurm import slurm_violations
from nemo_cascade.errors import ConfigError, RunFolderError
from nemo_cascade.slurm import jobs
from nemo_cascade.slurm.script import Job, render, write
from nemo_cascade.telemetry.console import err

TELLS_FACTS = True
TAKES_OVERRIDES = True
_LOG_LINES = 60
# What the job finds out by itself: where its Ray and its judge are.
_RAY_IN_THE_JOB = "cluster.ray_address=ray.invalid:6379"
_JUDGE_IN_THE_JOB = "reward.genrm.url=http://judge.invalid/v1"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_overrides(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry", action="store_true", help="check everything and print the job script, submit nothing")
    what.add_argument("--status", type=Path, metavar="RUN", help="tell the state of the run's newest job")
    what.add_argument("--logs", type=Path, metavar="RUN", help="show the end of its log, and where the others are")
    what.add_argument("--cancel", type=Path, metavar="RUN", help="end it, and wait until it is gone")


def execute(args: argparse.Namespace) -> int:
    """Check the run, write its script and hand it to Slurm; or look after one that was."""
    for action, folder in ((_status, args.status), (_logs, args.logs), (_cancel, args.cancel)):
        if folder is not None:
            if not folder.is_dir():
                raise RunFolderError("there is no such run folder", value=folder, mend="runs/NAME")
            action(folder)
            return 0
    if not args.dry:
        jobs.check_slurm()
    job = _job(args)
    if args.dry:
        tell(script=render(job))
        if out.facts is None:  # not through the console, which would wrap it
            out.file.write(render(job))
        return 0
    number = jobs.submit(write(job))
    tell(job=number, log=str(jobs.log_file(job.run_folder, number)))
    out.print(f"job {number}: {escape(str(jobs.log_file(job.run_folder, number)))}", soft_wrap=True)
    return 0


def _job(args: argparse.Namespace) -> Job:
    """Check everything that can be checked here.

    Raises:
        ConfigError: lists every violation, those of the job and those of the run.
    """
    config, _ = compose(args.overrides, args.config_dir)
    problems = [str(problem) for problem in slurm_violations(config)]
    there = [_RAY_IN_THE_JOB, *([_JUDGE_IN_THE_JOB] if config.slurm.judge is not None else [])]
    try:
        ready: Preflight | None = preflight([*args.overrides, *there], args.config_dir, elsewhere=True)
    except ConfigError as error:
        ready, problems = None, [*problems, *error.violations]
    if problems or ready is None:
        raise ConfigError(problems)
    for lacking in ready.lacking:
        # The nodes may have what this one lacks.
        err.print(escape(f"not here, so it must be there: {lacking}"), soft_wrap=True)
    folder = ["--config-dir", str(args.config_dir.absolute())] if args.config_dir is not None else []
    return Job(ready.config, [*args.overrides, *folder], ready.folder.absolute(), Path(os.getcwd()))


def _status(folder: Path) -> None:
    found = jobs.state(jobs.newest(folder))
    tell(job=found.job, state=found.state, detail=found.detail)
    out.print(f"job {found.job}: {found.state}, {escape(found.detail)}", soft_wrap=True)


def _logs(folder: Path) -> None:
    log = jobs.log_file(folder, jobs.newest(folder))
    tell(job=jobs.newest(folder), log=str(log), logs=str(folder / "logs"))
    if log.is_file():
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in deque(lines, _LOG_LINES):
                out.print(escape(line.rstrip("\n")), soft_wrap=True)
    out.print(f"all of it: {escape(str(log))}", soft_wrap=True)
    out.print(f"of every node and actor: {escape(str(folder / 'logs'))}", soft_wrap=True)


def _cancel(folder: Path) -> None:
    job = jobs.newest(folder)
    jobs.cancel(job)
    tell(job=job, state="ended")
    out.print(f"job {job} is ended", soft_wrap=True)
