"""Where the command line writes: results to stdout, everything else to stderr."""

import json
import logging
import os
import sys
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape, render
from rich.table import Table

from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.telemetry.console import console, err


class Facts:
    """What a verb tells programs (`--json`), and the tables and lines that it would show people.

    One shape for all verbs, an object on one line of standard output::

        {"verb": ..., "exit_code": ..., "facts": {...}, "tables": [{"title", "rows": [{column: text}]}], "lines": [...],
         "refusals": [...]}
    """

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.tables: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.refusals: list[str] = []

    def show(self, thing: Any) -> None:
        """Keep a table by its columns, anything else as a line."""
        if not isinstance(thing, Table):
            if text := render(str(thing)).plain.strip():
                self.lines.append(text)
            return
        names = [str(column.header).strip() or str(index) for index, column in enumerate(thing.columns)]
        cells = [[render(str(cell)).plain for cell in column.cells] for column in thing.columns]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]
        self.tables.append({"title": str(thing.title or ""), "rows": rows})

    def write(self, verb: str, exit_code: int) -> None:
        """Write all of it, not through the console, which would wrap it."""
        shape = {"verb": verb, "exit_code": exit_code, "facts": self.told, "tables": self.tables, "lines": self.lines}
        out.file.write(json.dumps({**shape, "refusals": self.refusals}, default=str) + "\n")


class Output(Console):
    """Standard output: for people, or kept for programs."""

    facts: Facts | None = None

    def print(self, *things: Any, **options: Any) -> None:
        """Show, or keep."""
        if self.facts is None:
            super().print(*things, **options)
        else:
            for thing in things:
                self.facts.show(thing if options.get("markup", True) else escape(str(thing)))


out = console("stdout", Output)


def for_programs() -> Facts:
    """From here on, keep what is shown."""
    out.facts = Facts()
    return out.facts


def tell(**facts: Any) -> None:
    """Tell programs facts, by name; people see none of it."""
    if out.facts is not None:
        out.facts.told |= facts


def open_standard_streams() -> None:
    """Open what the caller closed of descriptors 0 to 2: the next file would get the number, and be printed into."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def show_error(error: CascadeError) -> None:
    """Write a user's error: what is wrong, the value, the limit and the mend; no traceback."""
    if out.facts is not None:
        out.facts.refusals += error.violations if isinstance(error, ConfigError) else [str(error)]
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
