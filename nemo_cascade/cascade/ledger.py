"""The run's ledger: what was done, on what, to what end; append-only and chained by hashes.

One JSON line per event:

    {"number": 3, "time": "2026-01-02T03:04:05.678+00:00", "event": "trained", "stage": "sft1",
     "details": {"checkpoint": "<content hash>", ...}, "previous": "<hash of record 2>", "hash": "<of this one>"}

`hash` covers everything else in the record, `previous` included, so no record can be altered, removed or swapped
without breaking the chain at a line that can be named.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemo_cascade.errors import RunFolderError
from nemo_cascade.storage.hashes import hash_json
from nemo_cascade.storage.jsonl import append_line, read_lines, repair_tail

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Record:
    """One event.

    Attributes:
        number: counts from 0.
        time: ISO 8601, UTC, milliseconds.
        event: what happened (`run_started`, `stage_started`, `trained`, `scored`, `decided`, ...).
        stage: name of the stage it concerns, or None for the run.
        details: facts by name, JSON-like, content hashes (config, data, parent, checkpoint, code) among them.
        previous: hash of the record before; GENESIS for the first.
        hash: hash of all other fields.
    """

    number: int
    time: str
    event: str
    stage: str | None
    details: Mapping[str, Any]
    previous: str
    hash: str


_FIELDS = {entry.name for entry in fields(Record)}


class Ledger:
    """Append to and read a run's ledger.jsonl; opening it verifies the whole chain.

    Args:
        path: the file; it is made with the first event. A last line that a crash cut short is dropped.

    Raises:
        RunFolderError: a record was altered, removed or reordered: names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        repair_tail(path)
        self._records = read_ledger(path)

    @property
    def records(self) -> tuple[Record, ...]:
        """All events in order."""
        return tuple(self._records)

    def append(self, event: str, stage: str | None = None, **details: Any) -> Record:
        """Record an event; on return it is on disk.

        Raises:
            RunFolderError: a detail isn't JSON-like.
        """
        body: dict[str, Any] = {
            "number": len(self._records),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "stage": stage,
            "details": details,
            "previous": self._records[-1].hash if self._records else GENESIS,
        }
        try:
            record = Record(**body, hash=hash_json(body))
        except (TypeError, ValueError) as error:
            what, mend = (
                f"the event {event} has a detail that isn't JSON-like",
                "tell it numbers, texts, lists and dicts",
            )
            raise RunFolderError(what, value=str(error), mend=mend) from error
        append_line(self.path, asdict(record))
        self._records.append(record)
        return record

    def find(self, event: str, stage: str | None = None) -> Record | None:
        """Return the newest event of that kind (and stage, if given), or None."""
        for record in reversed(self._records):
            if record.event == event and stage in (None, record.stage):
                return record
        return None


def read_ledger(path: Path) -> list[Record]:
    """Read and verify a ledger without touching it; an absent file has no events.

    Raises:
        RunFolderError: the chain is broken: names the line.
    """
    records: list[Record] = []
    previous = GENESIS
    for line, raw in read_lines(path):
        body = {key: value for key, value in raw.items() if key != "hash"}
        claimed = raw.get("hash")
        if claimed != hash_json(body):
            raise _broken(path, line, "was altered after it was written")
        if body.get("previous") != previous or body.get("number") != len(records):
            raise _broken(path, line, "doesn't follow the one before it: a record was removed, added or moved")
        if set(raw) != _FIELDS:
            raise _broken(path, line, f"has other fields than this version's: {sorted(set(raw) ^ _FIELDS)}")
        records.append(Record(**raw))
        previous = str(claimed)
    return records


def _broken(path: Path, line: int, why: str) -> RunFolderError:
    return RunFolderError(
        f"line {line} of the ledger {path} {why}",
        mend="restore the ledger from a copy; a run can't be resumed on a history that doesn't hold",
    )
