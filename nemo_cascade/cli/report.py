"""Write the report of a run folder again: every stage, every score, every decision.

nemo-cascade report runs/nano
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.terminal import out
from nemo_cascade.errors import RunFolderError

TAKES_OVERRIDES = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="a folder that `nemo-cascade run` made")


def execute(args: argparse.Namespace) -> int:
    """Write report.html from what the run folder holds."""
    # An old run whose configuration this version would refuse still has its report.
    if not (args.folder / "config.yaml").is_file():
        mend = "name a folder that `nemo-cascade run` made"
        raise RunFolderError("this is no run folder: it has no config.yaml", value=args.folder, mend=mend)
    from nemo_cascade.cascade.report import write_report

    out.print(escape(str(write_report(args.folder))))
    return 0
