"""Shards of tokenised samples on disk, each named by what it was made of and hashed file by file.

A shard is a folder `<root>/<key>`; the key hashes the unit's bytes, the tokenizer and the template. The packing has no
part in it, so one tokenised set serves any number of packings, and a new source file only adds shards. It holds

    tokens.bin    [tokens] int32, the samples end to end, in the order of their rows
    mask.bin      [tokens] uint8, 1 = trained
    samples.npy   [samples] SAMPLE: where each sample begins, its length, its trained tokens, its line in the unit
    bad.jsonl     rows that are no samples, with line and reason
    shard.json    counts, and size and BLAKE3 hash of every file above
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.data.chat.encode import NO_REPLY
from nemo_cascade.data.prepared import hash_file
from nemo_cascade.data.sft.tokenise import Sample
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int32

FORMAT_VERSION = 4
"""Raised with every change of what a row is read as, too."""
FACTS = "shard.json"
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
        for name, expected in self.facts["files"].items():
            found = hash_file(self.folder / name)
            if found != expected["blake3"]:
                raise _damaged(self.folder / name, f"hash {found}", expected["blake3"])


def open_shard(folder: Path) -> Shard:
    """Open a shard.

    Raises:
        DataError: it isn't there, or a file of it has another size than was written; names the file.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        files = facts["files"].items()
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder / FACTS, error, "a shard's facts") from error
    for name, expected in files:
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != expected["bytes"]:
            raise _damaged(file, f"{found} bytes", f"{expected['bytes']} bytes")
    return Shard(folder, facts)


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
        for stream in (tokens, mask, bad):
            _flush(stream)
    array = np.array(table, SAMPLE)
    with (folder / SAMPLES).open("wb") as stream:
        np.save(stream, array)
        _flush(stream)
    facts = {
        "format": FORMAT_VERSION,
        "rows": rows,
        "samples": len(array),
        "tokens": begin,
        "trained_tokens": int(array["trained"].sum()),
        "bad": kinds,
        "files": {name: _described(folder / name) for name in (TOKENS, MASK, SAMPLES, BAD)},
    }
    with (folder / FACTS).open("w", encoding="utf-8") as text:
        text.write(json.dumps(facts, indent=1) + "\n")
        _flush(text)


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "blake3": hash_file(file)}


def _flush(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _map(file: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if file.stat().st_size == 0:
        return np.empty(0, dtype)  # nothing can't be mapped
    return np.memmap(file, dtype=dtype, mode="r")


def _damaged(file: Path, value: Any, limit: Any) -> DataError:
    mend = f"remove {file.parent}; it is made again from its source"
    return DataError(f"damaged shard of tokenised data: {file}", value=value, limit=limit, mend=mend)
