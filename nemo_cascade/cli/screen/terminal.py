"""Where the command line writes: results to stdout, everything else to stderr.

A terminal gets colours and is wrapped by; a pipe or a file gets whole lines, without the blanks that tables end in.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import IO, cast

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from nemo_cascade.errors import CascadeError

# Piped output has no width of its own; tables then stay on one line each.
_PIPED = 200
_PADDING = re.compile(r"[ \t]+(?=\n)")


class _Unpadded:
    """One of the standard streams, without blanks at the ends of lines.

    Args:
        name: `stdout` or `stderr`; what bears this name at the time is written to.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        """Write text; a stream that the caller closed (`>&-`) takes anything."""
        stream = getattr(sys, self._name)
        return len(text) if stream is None else int(stream.write(_PADDING.sub("", text)))

    def flush(self) -> None:
        """Flush."""
        if (stream := getattr(sys, self._name)) is not None:
            stream.flush()

    def isatty(self) -> bool:
        """Tell that no terminal is behind it."""
        return False


def _console(name: str) -> Console:
    stream = getattr(sys, name)
    if stream is not None and stream.isatty():
        return Console(stderr=name == "stderr", highlight=False, soft_wrap=name == "stderr")
    file = cast(IO[str], _Unpadded(name))
    return Console(file=file, highlight=False, soft_wrap=name == "stderr", width=_PIPED)


out, err = _console("stdout"), _console("stderr")


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
