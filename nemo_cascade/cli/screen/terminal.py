"""Where the command line writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from nemo_cascade.errors import CascadeError
from nemo_cascade.telemetry.console import console, err

out = console("stdout")


def open_standard_streams() -> None:
    """Open what the caller closed of descriptors 0 to 2: the next file would get the number, and be printed into."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def show_error(error: CascadeError) -> None:
    """Write a user's error: what is wrong, the value, the limit and the mend; no traceback."""
    err.print(f"[bold red]error[/]: {escape(str(error))}")


def show_json(value: Any) -> None:
    """Write a value for programs, on one line; not through the console, which would wrap it."""
    out.file.write(json.dumps(value, default=str) + "\n")


def table(title: str, *columns: str) -> Table:
    """Start a borderless table; columns whose name ends in `#` are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column.rstrip("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    return made


def set_up_logging(debug: bool) -> None:
    """Send log records to stderr: to a terminal laid out, elsewhere as plain lines."""
    level = logging.DEBUG if debug else logging.INFO
    if err.is_terminal:
        handler = RichHandler(console=err, show_path=debug, rich_tracebacks=False, markup=False)
        logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    else:
        form = "%(asctime)s %(levelname)s %(message)s"
        logging.basicConfig(level=level, format=form, datefmt="%Y-%m-%d %H:%M:%S", stream=sys.stderr)
    for noisy in ("urllib3", "asyncio", "matplotlib", "filelock", "megatron", "megatron.core"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
