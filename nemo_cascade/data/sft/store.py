"""Packed training data on disk: which samples of the tokenised shards lie together in a pack.

A store is a folder `<cache>/<key>` of a few numbers per sample; the tokens lie beside it in `<cache>/tokens` (see
shards.py) and are shared by all packings of them. The key hashes the shards' names and the packing rules. Packs refer
to samples, so up-sampling costs no space and any pack is a handful of slices of memory maps. The folder is written
under another name and renamed when it is complete.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.data.layout import lay_out, make_document
from nemo_cascade.data.prepared import prove_files
from nemo_cascade.data.sft.shards import FACTS, Shard, open_shard
from nemo_cascade.data.sft.tokenised import SHARDS
from nemo_cascade.errors import DataError
from nemo_cascade.storage.hashes import hash_file
from nemo_cascade.types import Int32, Int64, PackedBatch

FORMAT_VERSION = 2
STATS = "stats.json"
SAMPLES, PACK_SAMPLES, PACK_OFFSETS = "samples.npy", "pack_samples.npy", "pack_offsets.npy"
FILES = (SAMPLES, PACK_SAMPLES, PACK_OFFSETS)
SAMPLE = np.dtype([("begin", "<i8"), ("shard", "<i4"), ("length", "<i4")])
# Each open map holds a file descriptor, two a shard; a terabyte of text has thousands of shards.
_MOST_OPEN = 128


@dataclass(frozen=True)
class PackedStore:
    """An opened store; everything but the statistics is memory-mapped.

    A shard's bytes are proven by their hash when its first sample is read in this process.

    Attributes:
        folder: where it lies.
        stats: samples, tokens, trained tokens, fill, the same by domain, a histogram of lengths, what was dropped.
        shards: where the tokens lie.
        samples: [samples] of SAMPLE: its shard, where it begins there, and how many of its tokens are used.
        pack_samples: samples of all packs, pack after pack.
        pack_offsets: [packs + 1], where each pack begins in pack_samples.
    """

    folder: Path
    stats: dict[str, Any]
    shards: tuple[Shard, ...]
    samples: NDArray[Any]
    pack_samples: Int64
    pack_offsets: Int64
    _opened: dict[int, tuple[Int32, NDArray[np.uint8]]] = field(default_factory=dict, repr=False, compare=False)
    _verified: set[int] = field(default_factory=set, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.pack_offsets) - 1

    @property
    def summary(self) -> dict[str, Any]:
        """The statistics without the list of files, which the key stands for."""
        return {name: value for name, value in self.stats.items() if name not in ("shards", "files")}

    def document(self, sample: int) -> PackedBatch:
        """Return a sample as a pack of its own.

        Raises:
            DataError: its shard doesn't hold the bytes that were written.
        """
        begin, shard, length = self.samples[sample].item()
        tokens, mask = self._opened.get(shard) or self._open(shard)
        return make_document(tokens[begin : begin + length], mask[begin : begin + length])

    def batch(self, pack: int) -> PackedBatch:
        """Return a pack as a micro-batch of at most seq_length tokens."""
        members = self.pack_samples[self.pack_offsets[pack] : self.pack_offsets[pack + 1]]
        return lay_out([self.document(s) for s in members.tolist()])

    def verify(self) -> None:
        """Prove all shards by their hashes now.

        Raises:
            DataError: names the first file that was changed.
        """
        for number in range(len(self.shards)):
            self._verify(number)

    def _verify(self, number: int) -> None:
        if number not in self._verified:
            self.shards[number].verify()
            self._verified.add(number)

    def _open(self, number: int) -> tuple[Int32, NDArray[np.uint8]]:
        self._verify(number)
        while len(self._opened) >= _MOST_OPEN:
            del self._opened[next(iter(self._opened))]
        self._opened[number] = self.shards[number].tokens(), self.shards[number].mask()
        return self._opened[number]


def describe_shards(shards: list[Shard]) -> dict[str, str]:
    """Return the hash of each shard's facts, which hold the hashes of its files."""
    return {shard.folder.name: hash_file(shard.folder / FACTS) for shard in shards}


def open_store(folder: str | Path) -> PackedStore:
    """Open a store.

    Raises:
        DataError: it isn't there, is of another format, a file of it isn't what was written, or a shard that it needs
            is missing or damaged; names the file.
    """
    root = Path(folder)
    if not (root / STATS).is_file():
        raise DataError("no packed data", value=str(root), mend="build it with build_packed_store")
    stats = read_json_object(root / STATS, DataError)
    if stats.get("format") != FORMAT_VERSION:
        raise DataError(
            "packed data of another format",
            value=stats.get("format"),
            limit=FORMAT_VERSION,
            mend="delete the folder: it is made again",
        )
    prove_files(root, stats.get("files"), "packed data")
    shards = []
    for key, facts in stats["shards"].items():
        shards.append(open_shard(root.parent / SHARDS / key))
        if (found := hash_file(shards[-1].folder / FACTS)) != facts:
            mend = f"remove {root}, if the shard was made anew on purpose; it's packed again"
            raise DataError(f"another shard than was packed: {shards[-1].folder}", value=found, limit=facts, mend=mend)
    return PackedStore(root, stats, tuple(shards), *(np.load(root / name, mmap_mode="r") for name in FILES))
