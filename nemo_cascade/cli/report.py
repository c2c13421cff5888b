"""Write the report of a run folder again: every stage, every score, every decision.

nemo-cascade report runs/nano
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.terminal import out
from nemo_cascade.config.provenance import read_config

TAKES_OVERRIDES = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="a folder that `nemo-cascade run` made")


def execute(args: argparse.Namespace) -> int:
    """Write report.html from what the run folder holds."""
    read_config(args.folder)
    from nemo_cascade.cascade.report import write_report

    write_report(args.folder)
    out.print(escape(str(args.folder / "report.html")))
    return 0
