"""The workplace's tables: rows of texts, read once, copied for each sample.

A folder holds the files of NeMo Gym's `workplace_assistant` (`csv_data`, or its `processed` and `raw` folders' files in
one place): emails, calendar_events, analytics_data, project_tasks, customer_relationship_manager_data and, without a
header, email_addresses, each `.csv`. All values are texts; an empty one is None.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nemo_cascade.errors import DataError

Row = dict[str, str | None]
NOW = "2023-11-30 23:59:00"
"""What the clock of the workplace says; tasks say so, too."""

_FILES = {
    "emails": ("email_id", "inbox/outbox", "sender/recipient", "subject", "sent_datetime", "body"),
    "calendar_events": ("event_id", "event_name", "participant_email", "event_start", "duration"),
    "analytics_data": ("visitor_id", "date_of_visit", "session_duration_seconds", "traffic_source", "user_engaged"),
    "project_tasks": ("task_id", "task_name", "assigned_to_email", "list_name", "due_date", "board"),
    "customer_relationship_manager_data": (
        "customer_id", "customer_name", "customer_email", "customer_phone", "last_contact_date", "product_interest",
        "status", "assigned_to_email", "notes", "follow_up_by",
    ),
}  # fmt: skip
# Fields in which capital letters matter when states are compared.
_EXACT = ("status", "list_name", "board")


class ToolError(Exception):
    """A tool's complaint about how it was called; its words are the result."""


@dataclass
class Table:
    """Rows with an id.

    Attributes:
        key: the column of the id.
        rows: in order; whoever changes one puts a changed copy in its place.
        columns: of the file, in order.
    """

    key: str
    rows: list[Row]
    columns: Sequence[str]

    def find(self, name: str | None) -> Row | None:
        """Return the row with an id."""
        return next((row for row in self.rows if row[self.key] == name), None)

    def where(self, holds: Callable[[Row], bool]) -> list[Row]:
        """Return the rows of which something holds."""
        return [row for row in self.rows if holds(row)]

    def next_id(self, digits: int) -> str:
        """Return one more than the largest id, as a number of at least so many digits; ids are compared as texts."""
        largest = max((str(row[self.key]) for row in self.rows), default="0")
        return str(int(largest) + 1).zfill(digits)

    def add(self, row: Row) -> None:
        """Append a row; its other columns are empty."""
        self.rows.append({**dict.fromkeys(self.columns), **row})

    def change(self, name: str, column: str, value: str) -> bool:
        """Set one value; return whether there is such a row."""
        for i, row in enumerate(self.rows):
            if row[self.key] == name:
                self.rows[i] = {**row, column: value}
                return True
        return False

    def remove(self, name: str) -> bool:
        """Remove a row; return whether it was there."""
        before = len(self.rows)
        self.rows = [row for row in self.rows if row[self.key] != name]
        return len(self.rows) < before

    def copy(self) -> Table:
        """Return a table whose rows can be added, removed and exchanged without a change of this one."""
        return Table(self.key, list(self.rows), self.columns)


@dataclass
class State:
    """All tables of one sample, and the plots that were made.

    Attributes:
        emails, events, visits, tasks, customers: tables.
        addresses: of the company's people.
        plots: paths, in order.
    """

    emails: Table
    events: Table
    visits: Table
    tasks: Table
    customers: Table
    addresses: Sequence[str]
    plots: list[str] = field(default_factory=list)

    def fresh(self) -> State:
        """Return a copy for a sample."""
        tables = (self.emails, self.events, self.visits, self.tasks, self.customers)
        return State(*(table.copy() for table in tables), self.addresses)

    def same(self, other: State) -> bool:
        """Tell whether five states are equal: mail, calendar, plots, projects, customers; mostly whatever the case."""
        return [plot.lower() for plot in self.plots] == [plot.lower() for plot in other.plots] and all(
            _folded(ours.rows) == _folded(theirs.rows)
            for ours, theirs in (
                (self.emails, other.emails),
                (self.events, other.events),
                (self.tasks, other.tasks),
                (self.customers, other.customers),
            )
        )


def _folded(rows: Iterable[Row]) -> list[dict[str, str | None]]:
    return [{k: v if v is None or k in _EXACT else v.lower() for k, v in row.items()} for row in rows]


@cache
def read_state(folder: str) -> State:
    """Return the tables of a folder; take `fresh` copies of it.

    Raises:
        DataError: a file or a column is missing.
    """
    tables = []
    for name, columns in _FILES.items():
        with _file(folder, name).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows: list[Row] = [{k: v or None for k, v in row.items()} for row in reader]
        if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
            value = f"{_file(folder, name)}: {', '.join(reader.fieldnames or ())}"
            raise DataError(f"a table of the workplace lacks {', '.join(missing)}", value=value)
        tables.append(Table(columns[0], rows, list(reader.fieldnames or ())))
    with _file(folder, "email_addresses").open(encoding="utf-8", newline="") as file:
        addresses = [line.strip() for line in file if line.strip()]
    return State(*tables, addresses)


def _file(folder: str, name: str) -> Path:
    places = [Path(folder) / below / f"{name}.csv" for below in (".", "processed", "raw")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        mend = "the csv_data folder of NeMo Gym's workplace_assistant, or one with the same files"
        raise DataError("a table of the workplace is missing", value=str(places[0]), mend=mend)
    return found


def page_of(name: str, rows: Sequence[Any], page: Any, page_size: Any) -> Any:
    """Return a page of rows and where it stands among all; a page that isn't there is the nearest that is."""
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in (page, page_size)) or page_size < 1:
        raise ToolError("page and page_size are whole numbers, page_size at least 1")
    total, pages = len(rows), -(-len(rows) // page_size)
    page = max(1, min(page, pages))
    told = {f"total_{name}": total, "page": page, "page_size": page_size, "total_pages": pages}
    return {name: rows[(page - 1) * page_size : page * page_size], "pagination": told}
