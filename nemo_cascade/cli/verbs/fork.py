"""Run a cascade on from the finished stages of another run, with other settings from some stage on.

nemo-cascade fork runs/nano --at math_rl name=hot stages.math_rl.sampling.temperature=1.2
"""

import argparse
from pathlib import Path

from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.cli.verbs import run
from nemo_cascade.errors import ConfigError

TELLS_FACTS = True
TAKES_OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="the run whose first stages are taken over")
    parser.add_argument("--at", required=True, metavar="STAGE", help="the first stage that is made anew")
    parser.add_argument("--dry", action="store_true", help="make no folder, show the plan of the whole run")
    add_overrides(parser)


def execute(args: argparse.Namespace) -> int:
    """Make the new run's folder from the old one's, and run it; the same command resumes it."""
    from nemo_cascade.cascade.fork import check_fork_of, fork_run, inherited_overrides

    if not any(override.startswith("name=") for override in args.overrides):
        raise ConfigError(["a fork needs a name of its own; mend: name=ANOTHER"])
    anew = {override.partition("=")[0].lstrip("+~") for override in args.overrides}
    inherited = [text for text in inherited_overrides(args.folder) if text.partition("=")[0].lstrip("+~") not in anew]
    args.overrides = [*inherited, *args.overrides]
    ready = preflight(args.overrides, args.config_dir, elsewhere=args.dry)
    if args.dry:
        check_fork_of(args.folder, args.at, ready.config)
    else:
        fork_run(args.folder, args.at, ready.config, ready.provenance)
    return run.execute(args)
