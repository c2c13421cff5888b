"""Shards of tokenised samples on disk, each named by what it was made of and hashed file by file.

A shard is a folder `<root>/<key>`; the key hashes the unit's bytes, the tokenizer and the template. The packing has no
part in it, so one tokenised set serves any number of packings, and a new source file only adds shards. It holds

    tokens.bin    [tokens] int32, the samples end to end, in the order of their rows
    mask.bin      [tokens] uint8, 1 = trained
    samples.npy   [samples] SAMPLE: where each sample begins, its length, its trained tokens, its line in the unit
    bad.jsonl     rows that are no samples, with line and reason
    shard.json    counts, and size and BLAKE3 hash of every file above
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.data.chat.encode import NO_REPLY
from nemo_cascade.data.prepared import prove_files, read_described
from nemo_cascade.data.sft.tokenise import Sample
from nemo_cascade.storage.manifest import describe
from nemo_cascade.types import Int32

FORMAT_VERSION = 4
"""Raised with every change of what a row is read as, too."""
FACTS = "shard.json"
_WHAT = "shard of tokenised data"
TOKENS, MASK, SAMPLES, BAD = "tokens.bin", "mask.bin", "samples.npy", "bad.jsonl"
SAMPLE = np.dtype([("begin", "<i8"), ("line", "<i8"), ("length", "<i4"), ("trained", "<i4")])


@dataclass(frozen=True)
class Shard:
    """An opened shard.

    Attributes:
        folder: where it lies.
        facts: rows, samples, tokens, trained tokens, bad rows by kind, and of each file size and hash.
    """

    folder: Path
    facts: dict[str, Any]

    def tokens(self) -> Int32:
        """Map the [tokens] of all samples."""
        return _map(self.folder / TOKENS, np.dtype(np.int32))

    def mask(self) -> NDArray[np.uint8]:
        """Map the mask, [tokens], 1 = trained."""
        return _map(self.folder / MASK, np.dtype(np.uint8))

    def samples(self) -> NDArray[Any]:
        """Load the table, [samples] of SAMPLE."""
        array: NDArray[Any] = np.load(self.folder / SAMPLES)
        return array

    def bad_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that are no samples: `line`, `kind` (broken | untrainable), `reason`."""
        with (self.folder / BAD).open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)

    def verify(self) -> None:
        """Prove by hash that every file holds the bytes that were written.

        Raises:
            DataError: names the first file that doesn't.
        """
        prove_files(self.folder, self.facts.get("files"), _WHAT)


def open_shard(folder: Path) -> Shard:
    """Open a shard.

    Raises:
        DataError: it isn't there, or a file of it has another size than was written; names the file.
    """
    return Shard(folder, read_described(folder, FACTS, _WHAT, sizes_only=True))


def write_shard(folder: Path, samples: Iterable[Sample]) -> None:
    """Write a shard's files into a folder, sample by sample."""
    table: list[tuple[int, int, int, int]] = []
    rows, begin, kinds = 0, 0, {"broken": 0, "untrainable": 0}
    with (folder / TOKENS).open("wb") as tokens, (folder / MASK).open("wb") as mask, (folder / BAD).open("w") as bad:
        for sample in samples:
            rows += sample.part == 0
            if not sample.fit:
                kind = "broken" if sample.broken else "untrainable"
                kinds[kind] += 1
                reason = {"line": sample.line, "kind": kind, "reason": sample.broken or NO_REPLY}
                bad.write(json.dumps(reason) + "\n")
                continue
            assert sample.token_ids is not None, "a fit sample is tokenised"
            assert sample.mask is not None, "a fit sample is tokenised"
            tokens.write(sample.token_ids.tobytes())
            mask.write(sample.mask.tobytes())
            table.append((begin, sample.line, len(sample.token_ids), int(sample.mask.sum())))
            begin += len(sample.token_ids)
    array = np.array(table, SAMPLE)
    np.save(folder / SAMPLES, array)
    facts = {
        "format": FORMAT_VERSION,
        "rows": rows,
        "samples": len(array),
        "tokens": begin,
        "trained_tokens": int(array["trained"].sum()),
        "bad": kinds,
        "files": describe(folder, (TOKENS, MASK, SAMPLES, BAD)),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _map(file: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if file.stat().st_size == 0:
        return np.empty(0, dtype)  # nothing can't be mapped
    return np.memmap(file, dtype=dtype, mode="r")
