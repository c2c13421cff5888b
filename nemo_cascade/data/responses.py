"""Tokenised responses on disk, one by one or in pairs, and the micro-batches made of them.

An item is one response or two, the preferred one first; its documents are never parted. Which items share a micro-batch
is settled step by step, so that a global batch counts items.

<folder>/      named by a hash of all that its content depends on
    tokens.bin     int32 [tokens] of all documents, end to end
    trained.bin    uint8 [tokens], 1 where a token is trained, or a score read
    offsets.npy    [documents + 1], where each document begins
    values.npy     float32 [documents, V], by the names in stats.json; NaN: not known
    prompts.npy    [items], a hash of each item's prompt
    stats.json
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.data.batches import ShuffledStream, balanced_plan
from nemo_cascade.data.layout import dummy_document, lay_out, make_document, share_prompt
from nemo_cascade.data.prepared import read_described
from nemo_cascade.errors import DataError
from nemo_cascade.storage.manifest import describe
from nemo_cascade.types import Float32, Int32, Int64, PackedBatch

TOKENS, TRAINED, OFFSETS, VALUES = "tokens.bin", "trained.bin", "offsets.npy", "values.npy"
PROMPTS, STATS = "prompts.npy", "stats.json"
_NOTHING: Mapping[str, str] = {}
FILES = (TOKENS, TRAINED, OFFSETS, VALUES, PROMPTS)


@dataclass(frozen=True)
class ResponseStore:
    """A folder of responses; everything but the statistics is memory-mapped.

    Attributes:
        folder: where it lies.
        stats: `per_item` documents of an item, names of `values`, rules, counts.
        tokens: [tokens].
        trained: [tokens].
        offsets: [documents + 1].
        values: [documents, V].
        prompts: [items].
        beside: further extras, [tokens] each, of the token behind (0 at a document's last), in files of their own.
    """

    folder: Path
    stats: dict[str, Any]
    tokens: Int32
    trained: NDArray[np.uint8]
    offsets: Int64
    values: Float32
    prompts: NDArray[np.uint64]
    beside: Mapping[str, Float32] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def documents(self, item: int) -> list[PackedBatch]:
        """Return an item's documents; what is known of a whole one stands as an extra at all its tokens."""
        size = self.stats["per_item"]
        return [self._document(number) for number in range(size * item, size * (item + 1))]

    def _document(self, number: int) -> PackedBatch:
        own = slice(self.offsets[number], self.offsets[number + 1])
        ids = self.tokens[own]
        names, values = self.stats["values"], self.values[number]
        extras = {name: np.full(len(ids), value, np.float32) for name, value in zip(names, values, strict=True)}
        document = make_document(ids, self.trained[own], extras)
        further = {name: values[own] for name, values in self.beside.items()}
        return replace(document, extras={**document.extras, **further}) if further else document


@dataclass
class StoreWriter:
    """Fills a folder with responses, item by item.

    Attributes:
        folder: empty.
        per_item: documents of an item.
        values: names of what is known of each document.
    """

    folder: Path
    per_item: int
    values: Sequence[str] = ()
    _lengths: array[int] = field(default_factory=lambda: array("q"))
    _values: list[Sequence[float]] = field(default_factory=list)
    _prompts: array[int] = field(default_factory=lambda: array("Q"))

    def __enter__(self) -> StoreWriter:
        self._tokens = (self.folder / TOKENS).open("wb")
        self._trained = (self.folder / TRAINED).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()
        self._trained.close()

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, prompt: int, documents: Sequence[tuple[Int32, NDArray[np.uint8], Sequence[float]]]) -> None:
        """Add an item.

        Args:
            prompt: hash of its prompt, 64 bits.
            documents: token ids [n], trained [n] and values [V] of each.
        """
        assert len(documents) == self.per_item, "an item has all its documents"
        for ids, trained, values in documents:
            self._tokens.write(np.asarray(ids, np.int32).tobytes())
            self._trained.write(np.asarray(trained, np.uint8).tobytes())
            self._lengths.append(len(ids))
            self._values.append(values)
        self._prompts.append(prompt)

    def finish(self, stats: Mapping[str, Any]) -> None:
        """Write what isn't there yet, statistics and hashes last."""
        self._tokens.flush()
        self._trained.flush()
        lengths = np.frombuffer(self._lengths, np.int64)
        np.save(self.folder / OFFSETS, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        np.save(self.folder / VALUES, np.array(self._values, np.float32).reshape(len(lengths), len(self.values)))
        np.save(self.folder / PROMPTS, np.frombuffer(self._prompts, np.uint64))
        facts = {
            **stats,
            "per_item": self.per_item,
            "values": list(self.values),
            "tokens_per_epoch": int(lengths.sum()),
            "files": describe(self.folder, FILES),
        }
        (self.folder / STATS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def open_responses(folder: str | Path, beside: Mapping[str, str] = _NOTHING) -> ResponseStore:
    """Open tokenised responses.

    Args:
        folder: of a StoreWriter.
        beside: further extra -> its file, float32 [tokens].

    Raises:
        DataError: they aren't there, or a file isn't what was written.
    """
    root = Path(folder)
    if not (root / STATS).is_file():
        raise DataError("no tokenised responses", value=str(root), mend="remove the folder; they are made again")
    stats = read_described(root, STATS, "tokenised responses")
    return ResponseStore(
        root,
        stats,
        np.memmap(root / TOKENS, dtype=np.int32, mode="r"),
        np.memmap(root / TRAINED, dtype=np.uint8, mode="r"),
        np.load(root / OFFSETS, mmap_mode="r"),
        np.load(root / VALUES, mmap_mode="r"),
        np.load(root / PROMPTS, mmap_mode="r"),
        {name: np.memmap(file, dtype=np.float32, mode="r") for name, file in beside.items()},
    )


class ResponseSource(ShuffledStream):
    """The micro-batches of a stage that learns from responses.

    Args:
        folder: of their store; named by a hash of its content.
        global_batch_size: items per step over all data-parallel ranks.
        seed: draws each epoch's order.
        tokens: most tokens of a micro-batch.
        beside: further extra that the loss reads -> its file, float32 [tokens].
        share_prompts: an item's documents share their prompt.
    """

    def __init__(
        self,
        folder: str | Path,
        global_batch_size: int,
        seed: int,
        tokens: int,
        beside: Mapping[str, str] = _NOTHING,
        share_prompts: bool = False,
    ) -> None:
        super().__init__(folder, global_batch_size, seed)
        self.tokens = tokens
        self.beside = dict(beside)
        self.share_prompts = share_prompts

    @property
    def store(self) -> ResponseStore:
        """The store, opened at first use in each process."""
        if self._opened is None:
            self._opened = open_responses(self.folder, self.beside)
        return cast(ResponseStore, self._opened)

    @property
    def num_items(self) -> int:
        """Items of an epoch."""
        return len(self.store)

    def micro_batches(self, step: int, dp_rank: int, dp_size: int) -> list[PackedBatch]:
        """Return a rank's share of the step, items whole; a micro-batch without any holds an untrained document."""
        documents = self._documents(step)
        dummy = dummy_document(tuple(documents[0][0].extras))
        return [
            lay_out([d for i in members for d in documents[i]] or [dummy])
            for members in self._plan(documents, dp_size)[dp_rank]
        ]

    def by_document(self, step: int, values: Sequence[Sequence[Float32]]) -> Float32:
        """Put values of a step's documents into the order of `items`.

        Args:
            step: whose.
            values: [dp_rank][micro-batch], each [trained documents, ...].
        """
        documents = self._documents(step)
        size = self.store.stats["per_item"]
        ordered: dict[int, Float32] = {}
        for rank_plan, rank_values in zip(self._plan(documents, len(values)), values, strict=True):
            for members, found in zip(rank_plan, rank_values, strict=True):
                for place, i in enumerate(members):
                    ordered[i] = found[size * place : size * (place + 1)]
        return np.concatenate([ordered[i] for i in range(len(documents))])

    def _documents(self, step: int) -> list[list[PackedBatch]]:
        items = [self.store.documents(item) for item in self.items(step)]
        return [share_prompt(documents) for documents in items] if self.share_prompts else items

    def _plan(
        self, documents: Sequence[Sequence[PackedBatch]], dp_size: int
    ) -> tuple[tuple[tuple[int, ...], ...], ...]:
        lengths = [sum(d.num_tokens for d in item) for item in documents]
        return balanced_plan(lengths, self.tokens, dp_size)


class HoldoutSource(ResponseSource):
    """Every item once, in the file's order; the last step may hold fewer."""

    def items(self, step: int) -> list[int]:
        """Item numbers of a step, in order."""
        first = step * self.global_batch_size
        return list(range(first, min(first + self.global_batch_size, self.num_items)))
