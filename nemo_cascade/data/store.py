"""Packed training data on disk: tokenised once, found again by what it was made of.

A store is a folder `<cache>/<key>`; the key hashes the content of the source files, the tokenizer, the template and
the packing rules. Samples lie in source order and packs refer to them, so up-sampling costs no space and any pack
is a handful of slices of a memory map. The folder is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.data.layout import Document, lay_out
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int32, Int64, PackedBatch

FORMAT_VERSION = 1
TOKENS, MASK, STATS = "tokens.bin", "mask.bin", "stats.json"
SAMPLE_OFFSETS, PACK_SAMPLES, PACK_OFFSETS = "sample_offsets.npy", "pack_samples.npy", "pack_offsets.npy"
FILES = (TOKENS, MASK, SAMPLE_OFFSETS, PACK_SAMPLES, PACK_OFFSETS)


@dataclass(frozen=True)
class PackedStore:
    """An opened store; everything but the statistics is memory-mapped.

    Attributes:
        folder: where it lies.
        stats: samples, tokens, trained tokens, fill, the same by domain, a histogram of lengths, what was dropped.
        tokens: [tokens] of all samples, in source order.
        mask: [tokens], 1 = trained.
        sample_offsets: [samples + 1], where each sample begins.
        pack_samples: samples of all packs, pack after pack.
        pack_offsets: [packs + 1], where each pack begins in pack_samples.
    """

    folder: Path
    stats: dict[str, Any]
    tokens: Int32
    mask: NDArray[np.uint8]
    sample_offsets: Int64
    pack_samples: Int64
    pack_offsets: Int64

    def __len__(self) -> int:
        return len(self.pack_offsets) - 1

    def document(self, sample: int) -> Document:
        """Return a sample without copying it."""
        begin, end = self.sample_offsets[sample], self.sample_offsets[sample + 1]
        return Document(self.tokens[begin:end], self.mask[begin:end])

    def batch(self, pack: int) -> PackedBatch:
        """Return a pack as a micro-batch of at most seq_length tokens."""
        members = self.pack_samples[self.pack_offsets[pack] : self.pack_offsets[pack + 1]]
        return lay_out([self.document(int(s)) for s in members], self.stats["rules"]["document_multiple"])


def open_store(folder: str | Path) -> PackedStore:
    """Open a store.

    Raises:
        DataError: it isn't there, is of another format, or a file of it has another size than was written.
    """
    root = Path(folder)
    if not (root / STATS).is_file():
        raise DataError("no packed data", value=str(root), mend="build it with build_packed_store")
    stats = json.loads((root / STATS).read_text(encoding="utf-8"))
    if stats["format"] != FORMAT_VERSION:
        raise DataError("packed data of another format", value=stats["format"], limit=FORMAT_VERSION)
    sizes = {name: (root / name).stat().st_size if (root / name).is_file() else None for name in FILES}
    if sizes != stats["bytes"]:
        raise DataError(
            "damaged packed data", value=f"{root}: {sizes}", limit=stats["bytes"], mend="remove it; it's built again"
        )
    return PackedStore(
        root,
        stats,
        np.memmap(root / TOKENS, dtype=np.int32, mode="r"),
        np.memmap(root / MASK, dtype=np.uint8, mode="r"),
        *(np.load(root / name, mmap_mode="r") for name in (SAMPLE_OFFSETS, PACK_SAMPLES, PACK_OFFSETS)),
    )
