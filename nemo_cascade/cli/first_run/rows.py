"""Somebody's rows for a first run: which columns hold the conversation, and which rows are kept out to measure on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_cascade.data.rows.sources import mapped_row, read_raw
from nemo_cascade.errors import DataError

# Usual names of columns, the surest first.
TURNS = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", "instruction", "question", "problem", "query", "user", "input")
REPLIES = ("completion", "response", "output", "assistant", "reply", "solution", "generated_solution", "answer")

MOST_HELD_OUT = 200
_PART_HELD_OUT = 5


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row's conversation stands: in `turns`, or in `prompt` and perhaps `reply`."""

    turns: str | None
    prompt: str | None
    reply: str | None

    def mapping(self, *, replies: bool) -> dict[str, str]:
        """Return `columns` of the configuration; empty where rows are as we want them."""
        if self.turns is not None:
            return {} if self.turns == "messages" else {"messages": self.turns}
        asked = {"user": self.prompt or ""}
        return {**asked, "assistant": self.reply} if replies and self.reply else asked

    @property
    def told(self) -> str:
        """The columns in words."""
        if self.turns is not None:
            return f"turns in `{self.turns}`"
        return f"prompts in `{self.prompt}`" + (f", replies in `{self.reply}`" if self.reply else ", no replies")


@dataclass(frozen=True, slots=True)
class Dealt:
    """Rows dealt out.

    Attributes:
        columns: where the conversation stands.
        train: file of the rows to train on, as they were given.
        prompts: file of the same rows to be answered: turns end with a user's; the same file where prompts have a
            column of their own.
        held_out: file of the rows to measure on, to be answered.
        count: rows to train on.
        held: rows to measure on.
        has_replies: whether rows hold replies to learn from.
        places: (file, line) of the written files -> where the row came from.
    """

    columns: Columns
    train: Path
    prompts: Path
    held_out: Path
    count: int
    held: int
    has_replies: bool
    places: Mapping[tuple[str, int], str]


def columns_of(row: Mapping[str, Any], where: str) -> Columns:
    """Find a row's conversation by the usual names.

    Raises:
        DataError: no column has any of them.
    """
    turns = next((name for name in TURNS if isinstance(row.get(name), list)), None)
    prompt = next((name for name in PROMPTS if isinstance(row.get(name), str | list)), None)
    reply = next((name for name in REPLIES if name != prompt and isinstance(row.get(name), str)), None)
    if turns is None and prompt is None:
        raise DataError(
            "no column holds a conversation or a prompt",
            value=f"{where}: {', '.join(map(str, row)) or 'an empty row'}",
            limit=f"{', '.join(TURNS)} (lists of turns), or a text in {', '.join(PROMPTS)}",
            mend='rename the column: {"prompt": "...", "completion": "..."}, '
            'or {"messages": [{"role": "user", "content": "..."}, ...]}',
        )
    return Columns(turns, None if turns else prompt, None if turns else reply)


def deal(data: Path, folder: Path) -> Dealt:
    """Write a set's rows into a folder: every fifth prompt is held out (at most 200), to measure on.

    Raises:
        DataError: rows that can't be read, no conversation in the first one, or fewer than two rows.
    """
    rows = list(_numbered(data))
    if len(rows) < 2:
        raise DataError(
            "too few rows",
            value=f"{len(rows)} in {data}",
            limit="2 or more: one is held out to measure on",
            mend="give --data a file with more rows",
        )
    columns = columns_of(rows[0][1], rows[0][0])
    asked = [_asks(row, columns) for _, row in rows]
    prompts = list(dict.fromkeys(asked))
    if len(prompts) < 2:
        limit = "2 or more different ones: one is held out to measure on"
        raise DataError(
            "too few prompts",
            value=f"{len(prompts)} in {data}",
            limit=limit,
            mend="give --prompts a file with more rows",
        )
    stride = max(_PART_HELD_OUT, -(-len(prompts) // MOST_HELD_OUT))
    # A prompt that is measured on is never trained on, however often it stands in the rows.
    kept_out = set(prompts[stride - 1 :: stride] or prompts[-1:])
    held = list({prompt: row for prompt, row in zip(asked, rows, strict=True) if prompt in kept_out}.values())
    train = [row for prompt, row in zip(asked, rows, strict=True) if prompt not in kept_out]
    folder.mkdir(parents=True, exist_ok=True)
    files = {"train": train, "held_out": [(place, _to_ask(row, columns)) for place, row in held]}
    if columns.turns is not None:
        files["prompts"] = [(place, _to_ask(row, columns)) for place, row in train]
    origins: dict[tuple[str, int], str] = {}
    for name, entries in files.items():
        file = folder / f"{name}.jsonl"
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for _, row in entries)
        file.write_text(text, encoding="utf-8")
        origins |= {(str(file), line): place for line, (place, _) in enumerate(entries, 1)}
    return Dealt(
        columns=columns,
        train=folder / "train.jsonl",
        prompts=folder / ("train.jsonl" if columns.turns is None else "prompts.jsonl"),
        held_out=folder / "held_out.jsonl",
        count=len(train),
        held=len(held),
        has_replies=bool(columns.reply) or any(_replies(row, columns) for _, row in train),
        places=origins,
    )


def _numbered(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    broken = []
    for raw in read_raw(data):
        row, problem = mapped_row(raw)
        if problem:
            broken.append(f"{raw.place}: {problem}")
        else:
            yield raw.place, row
    if broken:
        shown = "".join(f"\n    {line}" for line in broken[:20])
        raise DataError(f"{len(broken)} rows can't be read:{shown}\n ", mend="write one JSON object a line")


def _asks(row: Mapping[str, Any], columns: Columns) -> str:
    """Return what tells a row's prompt from others: all that is asked, but for case and white space."""
    asked = _to_ask(row, columns)[columns.turns] if columns.turns is not None else row.get(columns.prompt or "")
    return " ".join(json.dumps(asked, ensure_ascii=False, default=str).lower().split())


def _role(turn: Any) -> str:
    role = str(turn.get("role", turn.get("from", ""))) if isinstance(turn, Mapping) else ""
    return {"human": "user", "gpt": "assistant", "model": "assistant"}.get(role, role)


def _replies(row: Mapping[str, Any], columns: Columns) -> bool:
    turns = row.get(columns.turns or "")
    return isinstance(turns, list) and any(_role(turn) == "assistant" for turn in turns)


def _to_ask(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Return a row whose turns end before the last reply, which stands under `reference` for a reward to read."""
    if columns.turns is None or not _replies(row, columns):
        return dict(row)
    turns = list(row[columns.turns])
    last = max(number for number, turn in enumerate(turns) if _role(turn) == "assistant")
    reply = turns[last].get("content", turns[last].get("value", ""))
    return {"reference": reply, **row, columns.turns: turns[:last]}
