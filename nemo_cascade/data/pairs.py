"""Read and tokenise pairs of responses, the preferred one first: for a reward model, or for a policy.

A reward model is shown the question and the answers without their thinking, and scores their last tokens. A policy
learns the replies as it would have sampled them, thoughts included; both to the very same prompt.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from blake3 import blake3

from nemo_cascade.config.stages.pairs import PairDataConfig, PairSetConfig
from nemo_cascade.data.chat.conversation import foreign_mark
from nemo_cascade.data.chat.encode import Mask, encode_segments
from nemo_cascade.data.chat.mode_flags import without_flag
from nemo_cascade.data.chat.rendered import checked_row, render_samples
from nemo_cascade.data.chat.tokenizer import ChatTokenizer, load_tokenizer
from nemo_cascade.data.hygiene.words import canonical
from nemo_cascade.data.prepared import make_folder
from nemo_cascade.data.responses import ResponseStore, StoreWriter, open_responses
from nemo_cascade.data.rows.columns import NO_PREFERENCE, Schema, written_turns
from nemo_cascade.data.rows.files import hash_files
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.quarantine import QUARANTINE, BadRow, write_bad_rows
from nemo_cascade.data.rows.raw_row import RawRow
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.data.rows.sources import Problems, decode_row, read_raw, refuse_bad_share
from nemo_cascade.data.scored import encode_scored, scored_answer
from nemo_cascade.data.sft.tokenise import row_chunks
from nemo_cascade.errors import DataError
from nemo_cascade.storage.hashes import hash_recipe
from nemo_cascade.types import Int32

SIDES = ("chosen", "rejected")
FORMAT_VERSION = 4
"""Raised with every change of what a row is read as, too."""
For = Literal["scores", "scores_by_strength", "policy", "policy_by_rewards"]
"""Who learns from the pairs, and what beside the replies a row must have: `margin`, how strongly the chosen reply is
preferred; or `chosen_reward` and `rejected_reward`."""
VALUES: Mapping[For, tuple[str, ...]] = {
    "scores": (),
    "scores_by_strength": ("strength",),
    "policy": (),
    "policy_by_rewards": ("rewards",),
}
"""The extras of a pair's documents."""
Encoded = tuple[Int32, Mask]


@dataclass
class Tally:
    """What was read and what was left out."""

    rows: int = 0
    broken: Problems = field(default_factory=Problems)
    overlong: Problems = field(default_factory=Problems)
    unusable: Problems = field(default_factory=Problems)
    tied: int = 0
    bad: list[BadRow] = field(default_factory=list)

    def leave_out(self, raw: RawRow, kind: str, reason: str) -> None:
        """Count a row that is nothing to train on: it is broken, unusable or overlong."""
        counts = {"broken": self.broken, "unusable": self.unusable, "overlong": self.overlong}
        counts[kind].add(f"{raw.place}: {reason}")
        self.bad.append(BadRow(raw.file, raw.line, kind, reason))


@dataclass
class ReadPair:
    """A row as a pair: messages and the two replies; or what's wrong with it.

    Attributes:
        raw: the row.
        messages: the question.
        encoded: ids and mask of the chosen reply and of the rejected one, the question included.
        values: what else is known of each.
        broken: why it is no pair.
        unusable: why it teaches nothing.
        tied: neither reply is preferred.
    """

    raw: RawRow
    messages: list[Mapping[str, Any]] = field(default_factory=list)
    encoded: tuple[Encoded, ...] = ()
    values: tuple[tuple[float, ...], ...] = ()
    broken: str | None = None
    unusable: str | None = None
    tied: bool = False


def build_pair_stores(
    data: PairDataConfig,
    seq_length: int,
    tokenizer_path: str | Path,
    folder: str | Path,
    *,
    of: For = "scores",
) -> tuple[ResponseStore, ResponseStore]:
    """Return the tokenised pairs to train on and to hold out; see `build_pairs`.

    Raises:
        DataError: see `build_pairs`; or prompts are both trained on and held out.
    """
    train = build_pairs(data, seq_length, tokenizer_path, folder, of=of)
    held_out = replace(data, path=data.holdout_path, split=data.holdout_split or data.split)
    holdout = build_pairs(held_out, seq_length, tokenizer_path, folder, of=of)
    refuse_shared_prompts(train, holdout, data.holdout_path)
    return train, holdout


def refuse_shared_prompts(train: ResponseStore, holdout: ResponseStore, path: str) -> None:
    """Refuse prompts that are both trained on and held out.

    Raises:
        DataError: there are some.
    """
    shared = np.intersect1d(train.prompts, holdout.prompts)
    if shared.size:
        raise DataError(
            "prompts are both trained on and held out, so the hold-out accuracy would mean nothing",
            value=f"{shared.size} of {path}",
            limit=0,
            mend="split the rows by their prompts",
        )


def build_pairs(
    data: PairSetConfig,
    seq_length: int,
    tokenizer_path: str | Path,
    folder: str | Path,
    *,
    of: For = "scores",
) -> ResponseStore:
    """Return tokenised pairs, built under `folder` unless they are there already.

    A row has `messages`, ending in a user turn, `chosen` and `rejected`: a text each, or messages that end with the
    reply; where these begin alike, that beginning may stand for `messages`. For a reward model thinking is taken out of
    the replies (`data.scored`). Pairs of a released set of which neither response is preferred are left out and
    counted; they aren't bad (arXiv 2512.13607, section 4.2: HelpSteer3's 40K become 36K).

    Args:
        data: files and rules.
        seq_length: most tokens of a pair, both responses together.
        tokenizer_path: HF folder.
        folder: holds the tokenised data of any number of stages.
        of: who learns from them.

    Raises:
        DataError: rows that are no pairs; pairs that teach nothing or are too long, over the limit.
    """
    tokenizer, schema = load_tokenizer(tokenizer_path), schema_of(data.schema, data.columns)
    path = local_path(data, Path(folder).parent)
    rules = rules_of(f"pairs/{of}", FORMAT_VERSION, data, tokenizer, schema, seq_length, path)
    final = Path(folder) / hash_recipe(rules)[:32]
    make_folder(final, lambda building: _write(building, path, rules, tokenizer, schema, of))
    return open_responses(final)


def _write(
    folder: Path, path: str, rules: Mapping[str, Any], tokenizer: ChatTokenizer, schema: Schema, of: For
) -> None:
    tally = Tally()
    with StoreWriter(folder, len(SIDES), VALUES[of]) as writer:
        for chunk in row_chunks(read_raw(path)):
            for pair in read_pairs(chunk, tokenizer, schema, of):
                _admit(pair, tally, rules, writer)
        finish(writer, tally, rules, path, "pairs", "pairs")


def rules_of(
    kind: str, version: int, data: PairSetConfig, tokenizer: ChatTokenizer, schema: Schema, seq_length: int, path: str
) -> dict[str, Any]:
    """Return all that a store's content depends on."""
    return {
        "format": version,
        "kind": kind,
        "template": tokenizer.template.key,
        "tokenizer": tokenizer.fingerprint,
        "seq_length": seq_length,
        "overlong": data.overlong,
        "max_bad_fraction": data.max_bad_fraction,
        "schema": schema.key,
        "files": hash_files(path),
    }


def finish(
    writer: StoreWriter,
    tally: Tally,
    rules: Mapping[str, Any],
    path: str,
    items: Literal["pairs", "replies"],
    what: str,
) -> None:
    """Refuse what is over the limits, list what was left out, and write what is known of the store."""
    _refuse_bad(tally, rules, path, len(writer), items, what)
    write_bad_rows(writer.folder / QUARANTINE, tally.bad)
    writer.finish(
        {
            "rules": rules,
            items: len(writer),
            "rows_read": tally.rows,
            "dropped_overlong": tally.overlong.total,
            "dropped_tied": tally.tied,
            "dropped_unusable": tally.unusable.total,
            "dropped_broken": tally.broken.total,
            "first_dropped": [*tally.broken.first, *tally.unusable.first, *tally.overlong.first],
        }
    )


def read_pairs(
    raws: Sequence[RawRow], tokenizer: ChatTokenizer, schema: Schema, of: For = "scores"
) -> Iterator[ReadPair]:
    """Read rows as pairs, tokenised."""
    if of.startswith("policy"):
        for raw in raws:
            yield _read(raw, tokenizer, schema, of)[0]
        return
    read = [_read(raw, tokenizer, schema, of) for raw in raws]
    asked = [(pair.messages, str(reply["content"])) for pair, replies in read for reply in replies]
    encoded = iter(encode_scored(tokenizer, asked))
    for pair, replies in read:
        pair.encoded = tuple(_marked(next(encoded)) for _ in replies)
        yield pair


def _marked(ids: Int32) -> Encoded:
    """Mark a document's last token, where its score is read."""
    mask = np.zeros(len(ids), np.uint8)
    mask[-1] = 1
    return ids, mask


def _read(
    raw: RawRow, tokenizer: ChatTokenizer, schema: Schema, of: For
) -> tuple[ReadPair, tuple[Mapping[str, Any], ...]]:
    """Return a row as a pair, and the replies that are still to be tokenised."""
    row, broken = decode_row(raw, schema)
    if broken == NO_PREFERENCE:
        return ReadPair(raw, tied=True), ()
    if broken:
        return ReadPair(raw, broken=broken), ()
    asked = row.get("messages") or _common_turns(row)
    values, problems = _values(row, of)
    replies = []
    for side in SIDES:
        reply, trouble = _reply(row.get(side), asked)
        replies.append(reply)
        problems += [f"`{side}` {trouble}"] if trouble else []
    if of.startswith("policy"):
        encoded, more = ((), []) if problems else _as_sampled(tokenizer, {**row, "messages": asked}, replies)
        if problems := problems + more:
            return ReadPair(raw, broken="; ".join(problems)), ()
        equal = np.array_equal(encoded[0][0], encoded[1][0])
        same = "the responses are equal" if equal else None
        return ReadPair(raw, list(asked or ()), encoded, values, unusable=same), ()
    answers = [{"content": scored_answer(str(reply["content"]))} for reply in replies]
    messages, more = _scored_question(tokenizer, row, asked)
    problems += more
    for side, answer, reply in zip(SIDES, answers, replies, strict=True):
        problems += [f"`{side}` {trouble}" for trouble in _unscorable(tokenizer, answer["content"], reply)]
    if problems:
        return ReadPair(raw, broken="; ".join(problems)), ()
    unusable = None
    if not all(answer["content"].strip() for answer in answers):
        unusable = "a response is empty"
    elif answers[0]["content"].strip() == answers[1]["content"].strip():
        unusable = "the responses are equal"
    pair = ReadPair(raw, messages, (), values, unusable=unusable)
    return pair, () if unusable else tuple(answers)


def _values(row: Mapping[str, Any], of: For) -> tuple[tuple[tuple[float, ...], ...], list[str]]:
    """Return what is known of each reply beside its text, and what's wrong with it."""
    names = {"scores_by_strength": ("margin", "margin"), "policy_by_rewards": ("chosen_reward", "rejected_reward")}
    if of not in names:
        return ((), ()), []
    found = [row.get(name) for name in names[of]]
    wrong = [name for name, value in zip(names[of], found, strict=True) if not is_number(value)]
    if wrong:
        return (), [f"has no number `{name}`" for name in dict.fromkeys(wrong)]
    return tuple((float(value),) for value in found if value is not None), []


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a row's value is a finite number, true and false not counted."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _scored_question(
    tokenizer: ChatTokenizer, row: Mapping[str, Any], asked: Any
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the question as a reward model is shown it, and what's wrong with it."""
    checked, problems = checked_row(tokenizer, {**row, "messages": asked})
    messages = checked.get("messages")
    problems += tokenizer.template.prompt({"messages": messages}, "no_think")[1]
    if row.get("tools"):
        problems.append("has `tools`, which no reward model is shown")
    return list(messages or ()), problems


def _unscorable(tokenizer: ChatTokenizer, answer: str, reply: Mapping[str, Any]) -> list[str]:
    """Return why a reward model can't be shown an answer."""
    if reply.get("tool_calls"):
        return ["calls a tool, which isn't scored"]
    if found := tokenizer.control_in(answer):
        return [f"holds the control token {found}"]
    return [mark] if (mark := foreign_mark(answer)) else []


def _as_sampled(
    tokenizer: ChatTokenizer, row: Mapping[str, Any], replies: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Encoded, ...], list[str]]:
    """Tokenise the prompt with each reply, of which alone is learned; or say what's wrong."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
        return (), ["`messages` is no list of turns"]
    before = [{**turn, "trained": False} if turn.get("role") == "assistant" else turn for turn in messages]
    encoded, problems = [], []
    for side, reply in zip(SIDES, replies, strict=True):
        samples, wrong = render_samples(tokenizer, {**row, "messages": [*before, {**reply, "role": "assistant"}]})
        problems += [f"`{side}`: {problem}" for problem in wrong]
        encoded += encode_segments(tokenizer, samples)
    if problems:
        return (), problems
    begins = [int(np.argmax(mask > 0)) for _, mask in encoded]
    (chosen, _), (rejected, _) = encoded
    if begins[0] != begins[1] or not np.array_equal(chosen[: begins[0]], rejected[: begins[1]]):
        mend = "give the row a `mode`" if row.get("mode") is None else "they differ in what the template shows"
        return (), [f"the replies answer different prompts, for one thinks and the other doesn't: {mend}"]
    return tuple(encoded), []


def _common_turns(row: Mapping[str, Any]) -> list[Any] | None:
    """Return the turns before the replies of a row that has them in `chosen` and `rejected` only."""
    sides = [row.get(side) for side in SIDES]
    if not all(isinstance(turns, list) and len(turns) > 1 for turns in sides):
        return None
    before = [turns[:-1] for turns in sides if turns]
    return before[0] if before[0] == before[1] else None


def _reply(given: Any, messages: Any) -> tuple[Mapping[str, Any], str]:
    """Return a response as a turn and what's wrong with it; sets give it alone, as a turn, or with the conversation."""
    none: Mapping[str, Any] = {"content": ""}
    no_reply = "is neither a text nor messages that end with a reply to `messages`"
    if given is None:
        return none, "isn't there, or isn't mapped"
    if isinstance(given, str):
        try:
            return (none, "is the JSON of turns, not a text") if written_turns(given) else ({"content": given}, "")
        except ValueError as error:
            return none, f"is {error}"
    if not isinstance(given, list) or not given or not all(isinstance(turn, Mapping) for turn in given):
        return none, no_reply
    *before, last = given
    plain = [[(turn.get("role"), turn.get("content")) for turn in turns] for turns in (before, messages or ())]
    text = isinstance(last.get("content"), str) or (last.get("content") is None and bool(last.get("tool_calls")))
    if last.get("role") != "assistant" or not text or (before and plain[0] != plain[1]):
        return none, no_reply
    return {**last, "content": last.get("content") or ""}, ""


def _admit(pair: ReadPair, tally: Tally, rules: Mapping[str, Any], writer: StoreWriter) -> None:
    """Write a pair if it is usable, or note why it isn't."""
    tally.rows += 1
    if pair.broken:
        tally.leave_out(pair.raw, "broken", pair.broken)
    elif pair.tied:
        tally.tied += 1
    elif pair.unusable:
        tally.leave_out(pair.raw, "unusable", pair.unusable)
    else:
        total = sum(len(ids) for ids, _ in pair.encoded)
        if total > rules["seq_length"]:
            tally.leave_out(pair.raw, "overlong", f"{total} tokens")
            return
        documents = [(*one, values) for one, values in zip(pair.encoded, pair.values, strict=True)]
        writer.add(prompt_key(pair.messages), documents)


def prompt_key(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return a hash of a prompt, 64 bits: the same for spellings that say the same (`words.canonical`)."""
    asked = [[turn["role"], canonical(without_flag(turn.get("content") or ""))] for turn in messages]
    question = json.dumps([asked, *([turn["tool_calls"]] for turn in messages if turn.get("tool_calls"))])
    return int.from_bytes(blake3(question.encode()).digest(8), "little")


def _refuse_bad(tally: Tally, rules: Mapping[str, Any], path: str, usable: int, items: str, what: str) -> None:
    if not rules["max_bad_fraction"]:
        tally.broken.refuse(f"rows are no {what}", "mend or remove the rows, or set data.max_bad_fraction")
    overlong = f"longer than seq_length={rules['seq_length']}"
    if rules["overlong"] == "refuse":
        mend = "raise seq_length, or set data.overlong=drop and data.max_bad_fraction"
        tally.overlong.refuse(f"{items} are {overlong}", mend)
    found = {f"are no {what}": tally.broken, "teach nothing": tally.unusable, overlong: tally.overlong}
    refuse_bad_share(items, found, tally.rows, rules["max_bad_fraction"])
    if not usable:
        one = {"pairs": "pair", "replies": "reply"}[items]
        raise DataError(f"no {one} to train on", value=f"{tally.rows} rows read", mend=f"check {path}")
