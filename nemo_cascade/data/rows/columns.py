r"""How a set's columns become our rows.

A mapping says for each field of ours where it comes from: a column (`problem`), a field of one (`metadata.source`), the
JSON text in one (`FAIL_TO_PASS | json`), files in one (`contents | files`: path -> text, or a list of {path or
file_path, content}, either perhaps as JSON text), a column that may be absent (`tools?`), or a text with columns in
braces (`{problem}\n\n{hint}`). Fields that make the conversation are `messages` (turns, also ShareGPT's from/value), or
`system`, `user`, `reasoning` and `assistant`; `user` may itself be turns. What else is named stands in the row under
that name, beside all of the set's own columns, which verifiers may read. A column that holds NaN has no value.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_cascade.data.chat.inline_tools import lift_tools
from nemo_cascade.data.prompts.agent_rows import AGENT_TOOLS, agent_messages
from nemo_cascade.data.rows.gym_rows import lift_request
from nemo_cascade.data.rows.json_text import read_json

OWN = "own"
NO_PREFERENCE = "neither response is preferred"
_BRACES = re.compile(r"\{([A-Za-z_][\w.]*)\}")
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "function": "tool", "observation": "tool"}
_PARTS = ("system", "user", "reasoning", "assistant")
OURS = ("messages", "mode", "tools", "chosen", "rejected")
# What a mapping of the conversation needn't repeat: no set means anything else by these names.
UNDOUBTED = ("tools", "chosen", "rejected")
# A list of objects, as JSON or as Python writes it, however it goes on.
_LIKE_TURNS = re.compile(r"""\s*\[\s*\{\s*["'](role|from|content|value)["']\s*:""")


class _LacksColumn(Exception):
    """A row has no such column."""

    def __init__(self, path: str, raw: Mapping[str, Any]) -> None:
        super().__init__(path)
        self.path, self.found = path, ", ".join(map(str, raw))


@dataclass(frozen=True)
class Schema:
    """How a set's rows become ours.

    Attributes:
        basis: what the mapping is based on; empty: our own rows.
        fields: our field -> where it comes from.
        inline_tools: tools are declared in the system text, and calls and results are written into the turns' texts.
        preference: (column, first response, second response): a negative number prefers the first, 0 neither.
        guessed: columns that are assumed.
        kept: columns that have our names and stay without being mapped.
        request: the conversation is a request to the Responses API, as in NeMo Gym's rows.
        agent: what the user says is an issue that an agent is asked to resolve with its tools.
    """

    basis: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    inline_tools: bool = False
    preference: tuple[str, str, str] | None = None
    guessed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    request: bool = False
    agent: bool = False

    @property
    def key(self) -> str:
        """Everything that a mapped row depends on beside the row."""
        facts = [sorted(self.fields.items()), self.inline_tools, self.preference, self.kept]
        facts += [name for name in ("request", "agent") if getattr(self, name)]
        return json.dumps(facts) if self.basis else OWN

    @property
    def columns_read(self) -> frozenset[str] | None:
        """The columns that a configuration's mapping reads, none for our own rows; None: a released set's are known."""
        if self.basis and not self.kept:
            return None
        return frozenset(path.rstrip("?").split(".")[0] for where in self.fields.values() for path in _paths(where))

    def apply(self, raw: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """Map a row. Returns ours and None, or an empty row and what's wrong with it."""
        if not self.basis:
            return dict(raw), None
        try:
            raw = lift_request(raw) if self.request else raw
            found = {name: _value(raw, where) for name, where in self.fields.items()}
            # Names that mean something to us aren't taken over from a set that may mean something else.
            row = {k: v for k, v in raw.items() if k not in OURS or k in self.kept}
            row |= {k: v for k, v in found.items() if k not in _PARTS and v is not None}
            if "messages" in found:
                row["messages"] = [*_system(found), *_turns(found["messages"])]
            elif "user" in found:
                row["messages"] = _conversation(found)
            if self.agent:
                row |= {"messages": agent_messages(_text(found["user"], "user")), "tools": AGENT_TOOLS}
            if self.preference is not None:
                row |= _preferred(raw, self.preference)
            return (lift_tools(row) if self.inline_tools else row), None
        except _LacksColumn as lack:
            return {}, self._lacks(lack)
        except (KeyError, TypeError, ValueError) as error:
            return {}, str(error.args[0]) if error.args else repr(error)

    def _lacks(self, lack: _LacksColumn) -> str:
        read = [path for where in self.fields.values() for path in _paths(where)] + list(self.preference or ())
        told = f"no column {lack.path!r} (there are {lack.found}; the mapping reads {', '.join(dict.fromkeys(read))})"
        return told + "; its name is a guess: give the right one in `columns`" * (lack.path in self.guessed)


def _paths(where: str) -> list[str]:
    """Return the columns that a field is read from; one that may be absent ends in a question mark."""
    return _BRACES.findall(where) or [where.partition("|")[0].strip()]


def _value(raw: Mapping[str, Any], where: str) -> Any:
    if _BRACES.search(where):
        return _BRACES.sub(lambda match: _text(_column(raw, match[1]), match[1]), where)
    column, _, kind = (part.strip() for part in where.partition("|"))
    try:
        value = _column(raw, column.rstrip("?"))
    except _LacksColumn:
        if column.endswith("?"):
            return None
        raise
    if kind in ("json", "files") and isinstance(value, str):
        try:
            value = read_json(value)
        except ValueError as error:
            raise ValueError(f"column {column!r} is broken JSON: {error}") from error
    return _files(value, column) if kind == "files" else value


def _text(value: Any, column: str) -> str:
    """Return what stands in a text for a column's value; a list or an object has no one spelling."""
    if not isinstance(value, str | int | float):
        raise TypeError(f"column {column!r} is no text but {type(value).__name__}")
    return str(value)


def _files(value: Any, column: str) -> dict[str, str]:
    """Read files as path -> text."""
    if isinstance(value, Mapping):
        value = [{"path": path, "content": text} for path, text in value.items()]
    named = isinstance(value, list) and all(isinstance(f, Mapping) for f in value)
    pairs: list[tuple[Any, Any]] = [(f.get("path", f.get("file_path")), f.get("content")) for f in value if named]
    if not named or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise ValueError(f"column {column!r} holds no files: path -> text, or a list of path and content")
    return dict(pairs)


def _column(raw: Mapping[str, Any], path: str) -> Any:
    value: Any = raw
    for name in path.split("."):
        if not isinstance(value, Mapping) or _is_missing(value.get(name)):
            raise _LacksColumn(path, raw)
        value = value[name]
    return value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def written_turns(text: str) -> list[Any] | None:
    """Read turns out of their JSON text; None where the text is none, though it may begin with a bracket.

    Raises:
        ValueError: it is meant to be, and is broken.
    """
    if not text.lstrip().startswith("["):
        return None
    try:
        found = read_json(text)
    except ValueError as error:
        if _LIKE_TURNS.match(text):
            raise ValueError(f"turns that are broken JSON: {error}") from error
        return None
    are_turns = isinstance(found, list) and all(isinstance(t, Mapping) and {"role", "from"} & t.keys() for t in found)
    return found if are_turns else None


def _turns(given: Any) -> list[Any]:
    """Read turns, of our own form or ShareGPT's; a text is one user's turn, unless it is the JSON of turns."""
    if isinstance(given, str):
        turns = written_turns(given)
        given = [{"role": "user", "content": given}] if turns is None else turns
    if not isinstance(given, list):
        raise TypeError("the conversation is no list of turns")
    return [_turn(message) for message in given]


def _turn(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    turn = dict(message)
    if "from" in turn and "value" in turn:
        turn |= {"role": turn.pop("from"), "content": turn.pop("value")}
    role = turn.get("role")
    return {**turn, "role": _ROLES.get(role, role)} if isinstance(role, str) else turn


def _system(found: Mapping[str, Any]) -> list[Any]:
    text = found.get("system")
    return [] if text is None or text == "" else [{"role": "system", "content": _text(text, "system")}]


def _conversation(found: Mapping[str, Any]) -> list[Any]:
    turns = [*_system(found), *_turns(found["user"])]
    if "assistant" in found:
        thought = {"reasoning_content": found["reasoning"]} if found.get("reasoning") else {}
        turns.append({"role": "assistant", "content": found["assistant"], **thought})
    return turns


def _preferred(raw: Mapping[str, Any], columns: tuple[str, str, str]) -> dict[str, Any]:
    strength, first, second = (_column(raw, column) for column in columns)
    if not isinstance(strength, int | float) or isinstance(strength, bool) or not math.isfinite(strength):
        raise TypeError(f"column {columns[0]!r} is no number")
    if strength == 0:
        raise ValueError(NO_PREFERENCE)
    chosen, rejected = (first, second) if strength < 0 else (second, first)
    return {"chosen": chosen, "rejected": rejected, "margin": abs(strength)}


OWN_ROWS = Schema()
