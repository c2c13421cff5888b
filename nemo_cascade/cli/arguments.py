"""Arguments that several verbs take."""

import argparse
from pathlib import Path


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `[OVERRIDE ...]` and `--config-dir`."""
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="cascade=nano, key=value, +key=value, ~key")
    parser.add_argument(
        "--config-dir", type=Path, metavar="FOLDER", help="your own config files, beside the shipped ones"
    )
