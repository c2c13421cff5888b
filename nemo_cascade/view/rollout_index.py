"""An index of a run's rollouts in one SQLite file, so that a million of them are searched, sorted and paged from disk.

It is filled in the background, newest steps first: a step that isn't in it yet can still be read from its own file.
The rollouts themselves stay where the run wrote them.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_cascade.cascade.folder import RunFolder, StageFolder
from nemo_cascade.errors import RunFolderError
from nemo_cascade.report.samples import read_rollouts

log = logging.getLogger(__name__)

FILE = "rollouts.sqlite"
_POLL_S = 3.0
_BATCH_FILES = 50
_KEPT = ("prompt_id", "domain", "reward", "advantage", "error", "finish_reason")
_COLUMNS = ("stage", "step", "row", *_KEPT, "tokens", "turns")
_LAYOUT = 2  # of the file; one of another layout is made again
_UNJUDGED_LAST = "ifnull(reward, 9e999)"
# An order's index holds all that is filtered by: a page far behind is found without a look at the rollouts before it.
_INDEXED: Mapping[str, str] = {"by_reward": "reward", "by_merit": _UNJUDGED_LAST, "by_tokens": "tokens"}
_FILTERED = "step, row, reward, tokens, domain, finish_reason, error, prompt_id"
SORTS: Mapping[str, tuple[str, str | None]] = {
    "newest": ("step DESC, row", None),
    "oldest": ("step, row", None),
    "best": ("reward DESC, step DESC, row DESC", "by_reward"),
    "worst": (f"{_UNJUDGED_LAST}, step, row", "by_merit"),
    "longest": ("tokens DESC, step DESC, row DESC", "by_tokens"),
    "shortest": ("tokens, step, row", "by_tokens"),
}
"""Name -> order of rollouts, and the index that is in it; None: the table is."""


_MEANS = (
    "SELECT stage, step, prompt_id, avg(reward), count(*) FROM rollouts "
    "WHERE stage = ? AND step = ? AND reward IS NOT NULL GROUP BY prompt_id"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rollouts; None: any.

    Attributes:
        stage: its name.
        step: of the stage.
        domain: that is rewarded.
        prompt_id: whose responses.
        finish_reason: stop, length, abort.
        error: kind of the verifier's error; `any`: with an error, `none`: without.
        least: least reward.
        most: greatest reward.
        min_tokens: shortest response.
        max_tokens: longest response.
    """

    stage: str
    step: int | None = None
    domain: str | None = None
    prompt_id: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    least: float | None = None
    most: float | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None

    def clause(self) -> tuple[str, list[Any]]:
        """Return SQL and its values."""
        tests: list[tuple[str, Any]] = [("stage = ?", self.stage)]
        for name, value in (("step", self.step), ("domain", self.domain), ("finish_reason", self.finish_reason)):
            tests += [(f"{name} = ?", value)] if value is not None else []
        tests += [("instr(prompt_id, ?) > 0", self.prompt_id)] if self.prompt_id else []
        bounds: list[tuple[str, Any]] = [("reward >= ?", self.least), ("reward <= ?", self.most)]
        bounds += [("tokens >= ?", self.min_tokens), ("tokens <= ?", self.max_tokens)]
        tests += [(test, value) for test, value in bounds if value is not None]
        clause = " AND ".join(test for test, _ in tests)
        values = [value for _, value in tests]
        if self.error == "any":
            clause += " AND error IS NOT NULL"
        elif self.error == "none":
            clause += " AND error IS NULL"
        elif self.error:
            clause, values = f"{clause} AND error = ?", [*values, self.error]
        return clause, values


class RolloutIndex:
    """The index of one run.

    Args:
        folder: the run.
        file: the index; it is made again from the run's files where it is missing.
    """

    def __init__(self, folder: RunFolder, file: Path) -> None:
        self.folder, self._file = folder, file
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._whole: dict[Path, int] = {}  # a folder that was taken in whole -> when it last got a file
        with self._open() as base:
            base.execute("PRAGMA journal_mode = WAL")
            if base.execute("PRAGMA user_version").fetchone() != (_LAYOUT,):
                self._lay_out(base)

    @staticmethod
    def _lay_out(base: sqlite3.Connection) -> None:
        for table in ("files", "rollouts", "asked"):
            base.execute(f"DROP TABLE IF EXISTS {table}")
        base.execute("CREATE TABLE files (stage, step INTEGER, mtime_ns, PRIMARY KEY (stage, step))")
        base.execute(f"CREATE TABLE rollouts ({', '.join(_COLUMNS)}, PRIMARY KEY (stage, step, row)) WITHOUT ROWID")
        for index, first in _INDEXED.items():
            base.execute(f"CREATE INDEX {index} ON rollouts (stage, {first}, {_FILTERED})")
        base.execute("CREATE TABLE asked (stage, step, prompt_id, mean, n, PRIMARY KEY (stage, step, prompt_id))")
        base.execute(f"PRAGMA user_version = {_LAYOUT}")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file; one connection a thread and call."""
        with closing(sqlite3.connect(self._file, timeout=30.0)) as base, base:
            base.execute("PRAGMA synchronous = NORMAL")  # with WAL: whole after a crash, without a wait at each commit
            yield base

    def start(self) -> None:
        """Fill it from a thread, and keep it filled while the run goes on."""
        self._thread = threading.Thread(target=self._keep_up, name="rollout index", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _keep_up(self) -> None:
        while not self._stop.is_set():
            try:
                self.fill()
            except (OSError, sqlite3.Error) as error:
                log.warning("the index of rollouts of %s waits: %s", self.folder.name, error)
            self._stop.wait(_POLL_S)

    def missing(self) -> list[tuple[StageFolder, int, Path, int]]:
        """Return (stage, step, file, its time) of what isn't in it yet, newest steps first."""
        with self._open() as base:
            known = {(stage, step): time for stage, step, time in base.execute("SELECT * FROM files")}
        found = []
        for stage in self.folder.stages():
            changed = stage.rollouts.stat().st_mtime_ns if stage.rollouts.is_dir() else 0
            if self._whole.get(stage.rollouts) == changed:
                continue
            fresh = [(step, path, path.stat().st_mtime_ns) for step, path in rollout_files(stage)]
            new = [(stage, step, path, time) for step, path, time in fresh if known.get((stage.name, step)) != time]
            if not new:
                self._whole[stage.rollouts] = changed
            found += new
        return sorted(found, key=lambda entry: (entry[0].index, entry[1]), reverse=True)

    def fill(self) -> None:
        """Take in everything that is missing."""
        waiting = self.missing()
        for first in range(0, len(waiting), _BATCH_FILES):
            if self._stop.is_set():
                return
            self._take(waiting[first : first + _BATCH_FILES])

    def take_step(self, stage: str, step: int) -> None:
        """Take in one step now, if it isn't there."""
        for place in self.folder.stages():
            path = place.rollouts / f"step_{step:06d}.jsonl.gz"
            if place.name == stage and path.is_file():
                time = path.stat().st_mtime_ns
                with self._open() as base:
                    known = base.execute("SELECT mtime_ns FROM files WHERE stage = ? AND step = ?", (stage, step))
                    is_there = known.fetchone() == (time,)
                if not is_there:
                    self._take([(place, step, path, time)])

    def _take(self, entries: Sequence[tuple[StageFolder, int, Path, int]]) -> None:
        with self._open() as base:
            for stage, step, path, time in entries:
                for table in ("rollouts", "asked"):
                    base.execute(f"DELETE FROM {table} WHERE stage = ? AND step = ?", (stage.name, step))
                marks = ", ".join("?" * len(_COLUMNS))
                base.executemany(f"INSERT INTO rollouts VALUES ({marks})", _entries(stage.name, step, path))
                base.execute(f"INSERT INTO asked {_MEANS}", (stage.name, step))
                base.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (stage.name, step, time))

    def page(self, wanted: Wanted, sort: str, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return a page of rollouts without their texts, and how many there are in all."""
        clause, values = wanted.clause()
        with self._open() as base:
            (total,) = base.execute(f"SELECT count(*) FROM rollouts WHERE {clause}", values).fetchone()
            order, index = SORTS.get(sort, SORTS["newest"])
            # A step's few rollouts are together in the table.
            by = "NOT INDEXED" if index is None or wanted.step is not None else f"INDEXED BY {index}"
            keys = f"SELECT stage, step, row FROM rollouts {by} WHERE {clause} ORDER BY {order} LIMIT ? OFFSET ?"
            query = (
                f"SELECT {', '.join(_COLUMNS)} FROM ({keys}) JOIN rollouts USING (stage, step, row) ORDER BY {order}"
            )
            rows = base.execute(query, [*values, limit, offset]).fetchall()
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows], int(total)

    def counts(self) -> tuple[int, int]:
        """Return how many rollouts are in it, and of how many files."""
        with self._open() as base:
            (rollouts,) = base.execute("SELECT count(*) FROM rollouts").fetchone()
            (files,) = base.execute("SELECT count(*) FROM files").fetchone()
        return int(rollouts), int(files)

    def prompts(self, stage: str, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return each prompt's mean reward over the steps that it was asked in, those that changed most first."""
        with self._open() as base:
            query = "SELECT prompt_id, step, mean, n FROM asked WHERE stage = ? ORDER BY step, prompt_id"
            rows = base.execute(query, (stage,)).fetchall()
        by_prompt: dict[str, list[tuple[int, float, int]]] = {}
        for prompt, step, mean, n in rows:
            by_prompt.setdefault(prompt, []).append((step, mean, n))
        ordered = sorted(by_prompt.items(), key=lambda entry: -abs(entry[1][-1][1] - entry[1][0][1]))
        shown = ordered[offset : offset + limit]
        return [{"prompt_id": prompt, "points": points} for prompt, points in shown], len(ordered)


def rollout_files(stage: StageFolder) -> list[tuple[int, Path]]:
    """Return (step, file) of a stage's rollouts, in order."""
    files = sorted(stage.rollouts.glob("step_*.jsonl.gz"))
    return [(int(file.name.removeprefix("step_").partition(".")[0]), file) for file in files]


def tokens_of(line: Mapping[str, Any]) -> int:
    """Return the length of a response: its tokens where they were kept, else its words."""
    tokens = line.get("tokens")
    return len(tokens) if isinstance(tokens, Sequence) else len(str(line.get("response", "")).split())


def _entries(stage: str, step: int, path: Path) -> Iterator[tuple[Any, ...]]:
    try:
        lines = read_rollouts(path)
    except RunFolderError as error:
        log.warning("%s", error)
        return
    for row, line in enumerate(lines):
        turns = len(line.get("turns") or []) or 1
        kept = [line.get(name) for name in _KEPT]
        yield (stage, step, row, *kept, tokens_of(line), turns)
