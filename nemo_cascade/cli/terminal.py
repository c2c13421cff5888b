"""Where the command line writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from nemo_cascade.errors import CascadeError

# Piped output has no width of its own; tables and log lines then stay on one line each.
_PIPED = 200


def _width(stream: TextIO | None) -> int | None:
    """Return the width to write in; a stream that the caller closed (`>&-`) is None, and takes anything."""
    return None if stream is not None and stream.isatty() else _PIPED


out = Console(highlight=False, width=_width(sys.stdout))
err = Console(stderr=True, highlight=False, soft_wrap=True, width=_width(sys.stderr))


def open_standard_streams() -> None:
    """Open what the caller closed of descriptors 0 to 2: the next file would get the number, and be printed into."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def show_error(error: CascadeError) -> None:
    """Write a user's error: what is wrong, the value, the limit and the mend; no traceback."""
    err.print(f"[bold red]error[/]: {escape(str(error))}")


def table(title: str, *columns: str) -> Table:
    """Start a borderless table; columns whose name ends in `#` are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column.rstrip("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    return made


def set_up_logging(debug: bool) -> None:
    """Send log records to stderr, one line each."""
    handler = RichHandler(console=err, show_path=debug, rich_tracebacks=False, markup=False)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s", handlers=[handler])
    for noisy in ("urllib3", "asyncio", "matplotlib", "filelock", "megatron", "megatron.core"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
