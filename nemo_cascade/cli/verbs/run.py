"""Run a cascade, or resume it where its run folder stands.

nemo-cascade run cascade=nano
nemo-cascade run cascade=nano name=hot stages.math_rl.sampling.temperature=1.2
nemo-cascade run cascade=nano --dry
"""

import argparse

from rich.markup import escape

from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.machine_use import refuse_misfits
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.cli.screen.terminal import out, tell
from nemo_cascade.cli.verbs import plan
from nemo_cascade.config.checks.host import installed
from nemo_cascade.errors import PausedError, RuntimeUnavailableError

TELLS_FACTS = True
TAKES_OVERRIDES = True

PAUSED = 75  # sysexits.h: try again later

_NEEDED = ("torch", "megatron", "ray", "vllm", "transformers")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_overrides(parser)
    parser.add_argument("--dry", action="store_true", help="check everything and show the plan, start nothing")


def execute(args: argparse.Namespace) -> int:
    """Check the whole run first, then start it."""
    if args.dry:
        plan.show(preflight(args.overrides, args.config_dir, elsewhere=True))
        return 0
    ready = preflight(args.overrides, args.config_dir)
    refuse_misfits(ready)
    missing = [module for module in _NEEDED if not installed(module)]
    if missing:
        raise RuntimeUnavailableError(
            "a run needs packages that are not installed",
            value=", ".join(missing),
            mend="make setup (CPU), or the container of containers/README.md; `nemo-cascade doctor` tells more",
        )
    from nemo_cascade.cascade.folder import RunFolder
    from nemo_cascade.cascade.ledger import read_ledger
    from nemo_cascade.cascade.runner import run_cascade
    from nemo_cascade.cli.screen.run_facts import run_facts
    from nemo_cascade.report.matrix import collect_matrix, matrix_tables
    from nemo_cascade.report.story import held_stage, outcome_line, ways_on_text
    from nemo_cascade.stages import pause

    pause.listen()
    try:
        code = run_cascade(ready.config, ready.provenance)
    except PausedError as paused:
        out.print(escape(str(paused)), soft_wrap=True)
        return PAUSED
    folder = RunFolder(ready.folder)
    tell(report=str(folder.report), **run_facts(ready.folder))
    for table in matrix_tables(collect_matrix(folder)):
        out.print(table)
    out.print(escape(outcome_line(read_ledger(folder.ledger), list(ready.config.stages))), soft_wrap=True)
    if held := held_stage(folder):
        stage, decision = held
        out.print(escape(f"held after {stage}: {decision.reason}{ways_on_text(folder, stage)}"), soft_wrap=True)
    out.print(f"report: {escape(str(folder.report))}", soft_wrap=True)
    return code
