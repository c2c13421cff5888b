"""Make, or describe, every file that a recipe names: models, data, suites, with hashes and licences.

nemo-cascade fetch cascade=nano
nemo-cascade fetch cascade=nemotron_cascade/8b --json
"""

import argparse
from dataclasses import asdict

from rich.markup import escape

from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.screen.terminal import out, table, tell

TELLS_FACTS = True
TAKES_OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_overrides(parser)
    parser.add_argument("--dry", action="store_true", help="look only, fetch and write nothing")


def execute(args: argparse.Namespace) -> int:
    """Fetch what can be fetched, tell the rest; exit code 2 if something is missing then."""
    from nemo_cascade.cascade.recipe_files import recipe_files
    from nemo_cascade.cli.preflight import preflight
    from nemo_cascade.nano.prepare import prepare_data

    config = preflight(args.overrides, args.config_dir, fresh_folder=True, elsewhere=True).config
    if not args.dry:
        prepare_data(config)
    files = list(recipe_files(config, fetch=not args.dry))
    tell(files=[asdict(file) for file in files])
    if files:
        shown = table(f"files of {escape(config.name)}", "", "what", "where", "bytes#", "blake3", "licence")
        colours = {"there": "green", "made by the run": "green", "missing": "red"}
        for file in files:
            state = f"[{colours[file.state]}]{file.state}[/]"
            size = f"{file.bytes:,}" if file.bytes else ""
            shown.add_row(state, escape(file.key), escape(file.path), size, file.hash[:12], escape(file.licence))
        out.print(shown)
        for file in files:
            if file.state == "missing":
                out.print(escape(f"{file.key}: {file.needs}"), soft_wrap=True)
    return 2 if any(file.state == "missing" for file in files) else 0
