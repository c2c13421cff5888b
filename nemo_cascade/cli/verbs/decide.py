"""Rule about the stage that a run's gate decided last: go on from it, from its parent, or from its best other model.

nemo-cascade decide runs/nano --stage math_rl --rollback --because "the fall in chat is real"
nemo-cascade decide runs/nano --stage reward_model --accept --because "good enough for a first look"
"""

import argparse
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out, tell

TELLS_FACTS = True
TAKES_OVERRIDES = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="a folder that `nemo-cascade run` made")
    parser.add_argument("--stage", required=True, metavar="STAGE", help="the stage that was decided last")
    ruling = parser.add_mutually_exclusive_group(required=True)
    for name, meaning in (
        ("accept", "go on from the stage as it stands"),
        ("rollback", "go on from its parent; without a reward model, and without the stages that need it"),
        ("recover", "at the run's next start, look for its best other checkpoint, or merge with its parent"),
    ):
        ruling.add_argument(f"--{name}", action="store_const", const=name, dest="ruling", help=meaning)
    parser.add_argument("--because", required=True, metavar="WHY", help="the reason; kept in ledger and report")


def execute(args: argparse.Namespace) -> int:
    """Record the ruling, carry it out as far as that needs no model, and say how the run goes on."""
    from nemo_cascade.cascade.rulings import rule
    from nemo_cascade.config.reading.provenance import run_command
    from nemo_cascade.report.page import write_report

    decision = rule(args.folder, args.stage, args.ruling, args.because)
    write_report(args.folder)
    done = "to be recovered" if args.ruling == "recover" else decision.outcome
    tell(stage=args.stage, outcome=done, command=run_command(args.folder))
    out.print(f"{escape(args.stage)}: {done}; the run goes on with", soft_wrap=True)
    out.print(f"    {escape(run_command(args.folder))}", soft_wrap=True)
    return 0
