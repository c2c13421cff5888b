"""Write the report of a run folder again, or the comparison of several: every stage, score, decision and difference.

nemo-cascade report runs/nano
nemo-cascade report runs/nano runs/hot
"""

import argparse
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out, tell

TELLS_FACTS = True
TAKES_OVERRIDES = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="RUN_FOLDER", help="folders that `nemo-cascade run` made"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PAGE",
        help="several folders: the page (default: compare-A-B.html beside the first)",
    )


def execute(args: argparse.Namespace) -> int:
    """Write report.html from what the run folder holds, or the comparison of several."""
    if len(args.folders) > 1:
        from nemo_cascade.report.compare import write_comparison

        names = "-".join(folder.resolve().name for folder in args.folders)
        page = args.out or args.folders[0].resolve().parent / f"compare-{names}.html"
        page = write_comparison(args.folders, page)
        tell(page=str(page), runs=[str(run) for run in args.folders])
        out.print(escape(str(page)))
        return 0
    folder = args.folders[0]
    # An old run whose configuration this version would refuse still has its report.
    from nemo_cascade.cascade.folder import RunFolder
    from nemo_cascade.cli.screen.run_facts import run_facts
    from nemo_cascade.report.page import write_report

    RunFolder.begun(folder)

    page = write_report(folder)
    tell(page=str(page), **run_facts(folder))
    out.print(escape(str(page)))
    return 0
