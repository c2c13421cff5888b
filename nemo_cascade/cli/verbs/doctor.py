"""Look at this node as a run would use it: versions, device, memory, limits, sandbox, file systems, network, Slurm.

nemo-cascade doctor
nemo-cascade doctor --all-nodes          # inside an allocation: every node of it, and whether their clocks agree
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.examination.finding import Finding
from nemo_cascade.cli.examination.gpus import device
from nemo_cascade.cli.examination.machine import file_systems, limits, memory, sandbox, tools
from nemo_cascade.cli.examination.network import addresses, infiniband
from nemo_cascade.cli.examination.nodes import all_nodes, examine
from nemo_cascade.cli.examination.packages import own_lock, packages
from nemo_cascade.cli.screen.terminal import out, table, tell

TELLS_FACTS = True
TAKES_OVERRIDES = False
LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    device, memory, limits, sandbox, file_systems, addresses, infiniband, tools,
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    lock = "versions to compare with (the lock of this machine's device under containers/)"
    parser.add_argument("--lock", type=Path, metavar="FILE", help=lock)
    parser.add_argument("--all-nodes", action="store_true", help="inside an allocation: look at all of its nodes")


def execute(args: argparse.Namespace) -> int:
    """Print all findings; exit code 2 if one of them makes runs fail."""
    if args.all_nodes:
        findings = list(examine(all_nodes(), ["--lock", str(args.lock)] if args.lock is not None else []))
    else:
        findings = [*packages(args.lock or own_lock()), *(finding for look in LOOKS for finding in look())]
    tell(findings=[asdict(finding) for finding in findings])
    _show(findings)
    return 2 if any(finding.state == "bad" for finding in findings) else 0


def _show(findings: list[Finding]) -> None:
    shown = table("", "", "", "", "")
    shown.show_header = False
    colours = {"ok": "green", "absent": "yellow", "bad": "red"}
    for finding in findings:
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        shown.add_row(state, finding.subject, escape(finding.detail), escape(finding.mend))
    out.print(shown)
