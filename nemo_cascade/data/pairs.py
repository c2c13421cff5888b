"""Build and read the pairs of a reward model: two documents each, the preferred one first, never parted.

Which pairs share a micro-batch is settled step by step, so that a global batch counts pairs.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.data.batches import ShuffledStream, balanced_plan
from nemo_cascade.data.chat.conversation import foreign_mark
from nemo_cascade.data.chat.mode_flags import without_flag
from nemo_cascade.data.chat.rendered import checked_row
from nemo_cascade.data.chat.tokenizer import ChatTokenizer, load_tokenizer
from nemo_cascade.data.hygiene.words import canonical
from nemo_cascade.data.layout import dummy_document, lay_out, make_document, padded_length
from nemo_cascade.data.prepared import make_folder, read_described
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
from nemo_cascade.storage.manifest import describe
from nemo_cascade.types import Int32, Int64, PackedBatch

SIDES = ("chosen", "rejected")
FORMAT_VERSION = 3
"""Raised with every change of what a row is read as, too."""
TOKENS, OFFSETS, PROMPTS, STATS = "tokens.bin", "offsets.npy", "prompts.npy", "stats.json"
FILES = (TOKENS, OFFSETS, PROMPTS)


@dataclass(frozen=True)
class PairStore:
    """Tokenised pairs on disk; everything but the statistics is memory-mapped.

    Attributes:
        folder: where it lies; its name is a hash of all that its content depends on.
        stats: rules, pairs, tokens, what was dropped.
        tokens: [tokens] of all documents: each pair's chosen one, then its rejected one.
        offsets: [2 x pairs + 1], where each document begins.
        prompts: [pairs], a hash of each pair's prompt: the same for spellings that say the same (`words.canonical`).
    """

    folder: Path
    stats: dict[str, Any]
    tokens: Int32
    offsets: Int64
    prompts: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.prompts)

    def documents(self, pair: int) -> list[PackedBatch]:
        """Return the chosen and the rejected document; of each, the last token, where its score is read, is marked."""
        documents = []
        for number in (2 * pair, 2 * pair + 1):
            token_ids = self.tokens[self.offsets[number] : self.offsets[number + 1]]
            marked = np.zeros(len(token_ids), np.uint8)
            marked[-1] = 1
            documents.append(make_document(token_ids, marked))
        return documents


class PairSource(ShuffledStream):
    """The micro-batches of a reward model; the items are pairs."""

    @property
    def store(self) -> PairStore:
        """The store, opened at first use in each process."""
        if self._opened is None:
            self._opened = open_pairs(self.folder)
        return cast(PairStore, self._opened)

    @property
    def num_items(self) -> int:
        """Pairs of an epoch."""
        return len(self.store)

    def micro_batches(self, step: int, dp_rank: int, dp_size: int) -> list[PackedBatch]:
        """Return a rank's share of the step, pairs whole; a micro-batch without any holds an untrained document."""
        rules = self.store.stats["rules"]
        multiple = rules["document_multiple"]
        documents = [self.store.documents(pair) for pair in self.items(step)]
        lengths = [sum(padded_length(d.num_tokens, multiple) for d in pair) for pair in documents]
        plan = balanced_plan(lengths, rules["seq_length"], dp_size)
        return [
            lay_out([d for i in members for d in documents[i]] or [dummy_document()], multiple)
            for members in plan[dp_rank]
        ]


class HoldoutSource(PairSource):
    """Every pair once, in the file's order; the last step may hold fewer."""

    def items(self, step: int) -> list[int]:
        """Pair numbers of a step, in order."""
        first = step * self.global_batch_size
        return list(range(first, min(first + self.global_batch_size, self.num_items)))


@dataclass
class _Tally:
    rows: int = 0
    lengths: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    broken: Problems = field(default_factory=Problems)
    overlong: Problems = field(default_factory=Problems)
    unusable: Problems = field(default_factory=Problems)
    tied: int = 0
    bad: list[BadRow] = field(default_factory=list)

    def leave_out(self, raw: RawRow, kind: str, reason: str) -> None:
        """Count a row that is no pair to train on: it is broken, unusable or overlong."""
        counts = {"broken": self.broken, "unusable": self.unusable, "overlong": self.overlong}
        counts[kind].add(f"{raw.place}: {reason}")
        self.bad.append(BadRow(raw.file, raw.line, kind, reason))


@dataclass
class ReadPair:
    """A row as a pair: messages and the two replies; or what's wrong with it.

    Attributes:
        raw: the row.
        messages: the question.
        replies: chosen and rejected, without their thinking.
        broken: why it is no pair.
        unusable: why it teaches nothing.
        tied: neither reply is preferred.
    """

    raw: RawRow
    messages: list[Mapping[str, Any]] = field(default_factory=list)
    replies: tuple[str, ...] = ()
    broken: str | None = None
    unusable: str | None = None
    tied: bool = False


def build_pair_stores(
    data: PairDataConfig, seq_length: int, tokenizer_path: str | Path, folder: str | Path, *, document_multiple: int = 1
) -> tuple[PairStore, PairStore]:
    """Return the tokenised pairs to train on and to hold out, built under `folder` unless they are there already.

    A row has `messages`, ending in a user turn, `chosen` and `rejected`: a text each, or messages that end with the
    reply; where these begin alike, that beginning may stand for `messages`. Thinking is taken out of the replies
    (`data.scored`). Pairs of a released set of which neither response is preferred are left out and counted; they
    aren't bad (arXiv 2512.13607, section 4.2: HelpSteer3's 40K become 36K).

    Args:
        data: files and rules.
        seq_length: most tokens of a pair, both responses together.
        tokenizer_path: HF folder.
        folder: holds the tokenised data of any number of stages.
        document_multiple: documents are padded to a multiple of this.

    Raises:
        DataError: rows that are no pairs; pairs that teach nothing or are too long, over the limit; prompts that are
            both trained on and held out.
    """
    tokenizer, schema = load_tokenizer(tokenizer_path), schema_of(data.schema, data.columns)
    rules = {
        "format": FORMAT_VERSION,
        "kind": "pairs",
        "template": tokenizer.template.key,
        "tokenizer": tokenizer.fingerprint,
        "seq_length": seq_length,
        "document_multiple": document_multiple,
        "overlong": data.overlong,
        "max_bad_fraction": data.max_bad_fraction,
        "schema": schema.key,
    }
    sets = (data, replace(data, path=data.holdout_path, split=data.holdout_split or data.split))
    train, holdout = (_build(local_path(s, Path(folder).parent), rules, tokenizer, schema, Path(folder)) for s in sets)
    shared = np.intersect1d(train.prompts, holdout.prompts)
    if shared.size:
        raise DataError(
            "prompts are both trained on and held out, so the hold-out accuracy would mean nothing",
            value=f"{shared.size} of {data.holdout_path}",
            limit=0,
            mend="split the pairs by their prompts",
        )
    return train, holdout


def open_pairs(folder: str | Path) -> PairStore:
    """Open tokenised pairs.

    Raises:
        DataError: they aren't there, or a file isn't what was written.
    """
    root = Path(folder)
    if not (root / STATS).is_file():
        raise DataError("no tokenised pairs", value=str(root), mend="build them with build_pair_stores")
    stats = read_described(root, STATS, "tokenised pairs")
    tokens = np.memmap(root / TOKENS, dtype=np.int32, mode="r")
    return PairStore(root, stats, tokens, *(np.load(root / name, mmap_mode="r") for name in (OFFSETS, PROMPTS)))


def _build(path: str, rules: Mapping[str, Any], tokenizer: ChatTokenizer, schema: Schema, folder: Path) -> PairStore:
    whole = {**rules, "files": hash_files(path)}
    key = hash_recipe(whole)[:32]
    make_folder(folder / key, lambda building: _write(building, path, whole, tokenizer, schema))
    return open_pairs(folder / key)


def _write(folder: Path, path: str, rules: Mapping[str, Any], tokenizer: ChatTokenizer, schema: Schema) -> None:
    tally = _Tally()
    with (folder / TOKENS).open("wb") as tokens:
        for chunk in _chunks(path, tokenizer, schema):
            _admit(chunk, tokenizer, tally, rules, tokens)
    _refuse_bad(tally, rules, path)
    write_bad_rows(folder / QUARANTINE, tally.bad)
    lengths = np.frombuffer(tally.lengths, np.int64)
    np.save(folder / OFFSETS, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(folder / PROMPTS, np.frombuffer(tally.prompts, np.uint64))
    stats = {
        "rules": rules,
        "pairs": len(lengths) // len(SIDES),
        "tokens_per_epoch": int(lengths.sum()),
        "rows_read": tally.rows,
        "dropped_overlong": tally.overlong.total,
        "dropped_tied": tally.tied,
        "dropped_unusable": tally.unusable.total,
        "dropped_broken": tally.broken.total,
        "first_dropped": [*tally.broken.first, *tally.unusable.first, *tally.overlong.first],
        "files": describe(folder, FILES),
    }
    (folder / STATS).write_text(json.dumps(stats, indent=1) + "\n", encoding="utf-8")


def _chunks(path: str, tokenizer: ChatTokenizer, schema: Schema) -> Iterator[list[ReadPair]]:
    for chunk in row_chunks(read_raw(path)):
        yield [read_pair(raw, tokenizer, schema) for raw in chunk]


def read_pair(raw: RawRow, tokenizer: ChatTokenizer, schema: Schema) -> ReadPair:
    """Read a row as a pair."""
    row, broken = decode_row(raw, schema)
    if broken == NO_PREFERENCE:
        return ReadPair(raw, tied=True)
    if broken:
        return ReadPair(raw, broken=broken)
    asked = row.get("messages") or _common_turns(row)
    checked, problems = checked_row(tokenizer, {**row, "messages": asked})
    messages = checked.get("messages")
    problems += tokenizer.template.prompt({"messages": messages}, "no_think")[1]
    if row.get("tools"):
        problems.append("has `tools`, which no reward model is shown")
    replies = []
    for side in SIDES:
        reply, trouble = _reply(row.get(side), asked)
        replies.append(scored_answer(reply))
        if not trouble and (found := tokenizer.control_in(replies[-1])):
            trouble = f"holds the control token {found}"
        trouble = trouble or foreign_mark(replies[-1]) or ""
        problems += [f"`{side}` {trouble}"] if trouble else []
    if problems:
        return ReadPair(raw, broken="; ".join(problems))
    unusable = None
    if not all(reply.strip() for reply in replies):
        unusable = "a response is empty"
    elif replies[0].strip() == replies[1].strip():
        unusable = "the responses are equal"
    return ReadPair(raw, list(messages or ()), tuple(replies), unusable=unusable)


def _common_turns(row: Mapping[str, Any]) -> list[Any] | None:
    """Return the turns before the replies of a row that has them in `chosen` and `rejected` only."""
    sides = [row.get(side) for side in SIDES]
    if not all(isinstance(turns, list) and len(turns) > 1 for turns in sides):
        return None
    before = [turns[:-1] for turns in sides if turns]
    return before[0] if before[0] == before[1] else None


def _reply(given: Any, messages: Any) -> tuple[str, str]:
    """Return a response's text and what's wrong with it; sets give it alone, as a turn, or with the conversation."""
    no_reply = "is neither a text nor messages that end with a reply to `messages`"
    if given is None:
        return "", "isn't there, or isn't mapped"
    if isinstance(given, str):
        try:
            return ("", "is the JSON of turns, not a text") if written_turns(given) else (given, "")
        except ValueError as error:
            return "", f"is {error}"
    if not isinstance(given, list) or not given or not all(isinstance(turn, Mapping) for turn in given):
        return "", no_reply
    *before, last = given
    plain = [[(turn.get("role"), turn.get("content")) for turn in turns] for turns in (before, messages or ())]
    if last.get("role") != "assistant" or not isinstance(last.get("content"), str) or (before and plain[0] != plain[1]):
        return "", no_reply
    return last["content"], "calls a tool, which isn't scored" if last.get("tool_calls") else ""


def _admit(
    chunk: list[ReadPair],
    tokenizer: ChatTokenizer,
    tally: _Tally,
    rules: Mapping[str, Any],
    tokens: IO[bytes],
) -> None:
    """Write the usable pairs of a chunk, or note why they aren't."""
    tally.rows += len(chunk)
    usable = []
    for pair in chunk:
        if pair.broken:
            tally.leave_out(pair.raw, "broken", pair.broken)
        elif pair.tied:
            tally.tied += 1
        elif pair.unusable:
            tally.leave_out(pair.raw, "unusable", pair.unusable)
        else:
            usable.append(pair)
    encoded = iter(encode_scored(tokenizer, [(pair.messages, reply) for pair in usable for reply in pair.replies]))
    for pair in usable:
        both = [next(encoded) for _ in SIDES]
        total = sum(padded_length(len(ids), rules["document_multiple"]) for ids in both)
        if total > rules["seq_length"]:
            tally.leave_out(pair.raw, "overlong", f"{total} tokens")
            continue
        for ids in both:
            tokens.write(ids.tobytes())
            tally.lengths.append(len(ids))
        asked = [[turn["role"], canonical(without_flag(turn.get("content") or ""))] for turn in pair.messages]
        question = json.dumps([asked, *([turn["tool_calls"]] for turn in pair.messages if turn.get("tool_calls"))])
        tally.prompts.append(int.from_bytes(blake3(question.encode()).digest(8), "little"))


def _refuse_bad(tally: _Tally, rules: Mapping[str, Any], path: str) -> None:
    if not rules["max_bad_fraction"]:
        tally.broken.refuse("rows are no pairs", "mend or remove the rows, or set data.max_bad_fraction")
    if rules["overlong"] == "refuse":
        tally.overlong.refuse(
            f"pairs are longer than seq_length={rules['seq_length']}",
            "raise seq_length, or set data.overlong=drop and data.max_bad_fraction",
        )
    overlong = f"longer than seq_length={rules['seq_length']}"
    found = {"are no pairs": tally.broken, "teach nothing": tally.unusable, overlong: tally.overlong}
    refuse_bad_share("pairs", found, tally.rows, rules["max_bad_fraction"])
    if not tally.lengths:
        raise DataError("no pair to train on", value=f"{tally.rows} rows read", mend=f"check {path}")
