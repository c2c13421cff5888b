"""Turn raw rows into tokenised samples, a chunk at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nemo_cascade.config.stages.sft_data import ThoughtsConfig
from nemo_cascade.data.chat.encode import NO_REPLY, ChatTokenizer, Mask, encode_segments
from nemo_cascade.data.chat.rendered import render_samples
from nemo_cascade.data.chat.templates import Segment
from nemo_cascade.data.rows.columns import Schema
from nemo_cascade.data.rows.raw_row import RawRow
from nemo_cascade.data.rows.sources import decode_row
from nemo_cascade.data.sft.thoughts import with_thoughts
from nemo_cascade.types import Int32

# Encodings of a chunk are held at once, some hundred bytes a token: bounded by text, not by rows.
_CHUNK_BYTES = 1 << 19
_CHUNK_ROWS = 256


@dataclass
class Sample:
    """One row on its way to the store; or one of several samples of a row (`templates.turns.unroll`).

    Attributes:
        line: of the row, counted from 1 in its unit.
        row: the conversation; empty where the row is broken.
        segments: the sample as text.
        part: number of the sample within its row.
        broken: what is wrong with it, None if nothing.
        untrainable: it is a conversation without a reply.
        token_ids: [n].
        mask: [n], 1 = trained.
    """

    line: int
    row: dict[str, Any]
    segments: list[Segment] = field(default_factory=list)
    part: int = 0
    broken: str | None = None
    untrainable: bool = False
    token_ids: Int32 | None = None
    mask: Mask | None = None

    @property
    def fit(self) -> bool:
        """Whether it can be trained on."""
        return self.broken is None and not self.untrainable


def conversations(
    rows: Iterable[RawRow], tokenizer: ChatTokenizer, schema: Schema, thoughts: ThoughtsConfig
) -> Iterator[Sample]:
    """Decode, map and render rows, and say which are conversations to train on."""
    for raw in rows:
        row, broken = decode_row(raw, schema)
        row = row if broken else with_thoughts(row, thoughts, tokenizer)
        rendered, problems = ([], [broken]) if broken else render_samples(tokenizer, row)
        if problems == [NO_REPLY]:
            yield Sample(raw.line, row, untrainable=True)
        elif problems:
            yield Sample(raw.line, row, broken="; ".join(problems))
        for part, segments in enumerate(rendered):
            yield Sample(raw.line, row, segments, part)


def tokenised(
    rows: Iterable[RawRow], tokenizer: ChatTokenizer, schema: Schema, thoughts: ThoughtsConfig
) -> Iterator[Sample]:
    """Stream rows as samples; those that are fit are tokenised."""
    for chunk in row_chunks(rows):
        samples = list(conversations(chunk, tokenizer, schema, thoughts))
        fit = [s for s in samples if s.fit]
        encoded = encode_segments(tokenizer, [s.segments for s in fit])
        for sample, (ids, mask) in zip(fit, encoded, strict=True):
            sample.token_ids, sample.mask = ids, mask
        yield from samples


def row_chunks(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    """Take rows so many at a time as may be held at once, tokenised."""
    chunk: list[RawRow] = []
    size = 0
    for raw in rows:
        chunk.append(raw)
        size += raw.size
        if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_ROWS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
