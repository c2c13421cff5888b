"""Find samples that say the same: exactly, or nearly by MinHash and banding.

Map, then merge. Each shard's samples are fingerprinted on their own (any process, any node that sees the folder); the
merge reads the fingerprints only, one band at a time, so that it holds a few numbers per sample and never a text.
datasketch makes the signatures and chooses the bands; its index isn't used, since it holds Python objects per sample.

Shapes: N samples, P permutations, B bands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from nemo_cascade.config.stages.sft_data import DedupConfig
from nemo_cascade.data.hygiene.words import WORDS_VERSION, UInt64, WordHashes, ngram_hashes, text_hash
from nemo_cascade.storage.hashes import hash_recipe
from nemo_cascade.types import Int64

EXACT, BANDS, SIGNATURES = "exact.npy", "bands.npy", "signatures.npy"
SHINGLE_WORDS = 3
"""Words of a run that is compared."""
PERMUTATIONS = 128
"""MinHash permutations; the estimate's standard error is at most 0.5 / sqrt of it."""
# Candidates are checked by their signatures: rather look at too many than miss one.
_MISS_WEIGHT = 0.9
_CHUNK = 4096
_PAIRS = 1 << 18


@dataclass(frozen=True, slots=True)
class Said:
    """What a sample says.

    Attributes:
        text: of its conversation.
        beside: what it is said with; samples that differ in it aren't the same, however alike their texts.
        exactly: who says what of the text: samples that differ in it aren't exactly the same. Empty: the text.
    """

    text: str
    beside: str = ""
    exactly: str = ""


@dataclass(frozen=True)
class Duplicates:
    """Which samples repeat an earlier one.

    Attributes:
        exact: [N], the first sample that says exactly the same, or -1.
        near: [N], an earlier sample that says nearly the same, or -1; not given where there is an exact one.
    """

    exact: Int64
    near: Int64

    @property
    def repeated(self) -> NDArray[np.bool_]:
        """[N], whether an earlier sample says the same."""
        return (self.exact >= 0) | (self.near >= 0)


def fingerprint_key(config: DedupConfig, shard: str) -> str:
    """Name the fingerprints of a shard: a hash of all that they depend on."""
    near = [config.threshold, SHINGLE_WORDS, PERMUTATIONS] if config.method == "near" else None
    recipe = {"words": WORDS_VERSION, "near": near, "shard": shard}
    return hash_recipe(recipe)[:32]


def write_fingerprints(folder: Path, samples: Iterable[Said], config: DedupConfig) -> None:
    """Write the fingerprints of some samples into a folder."""
    exact: list[int] = []
    bands, signatures = [], []
    for chunk in _chunks(samples, _CHUNK):
        exact += (text_hash(said.exactly or said.text) ^ _beside(said) for said in chunk)
        if config.method == "near":
            signature, known = near_signatures(chunk)
            bands.append(band_hashes(signature, known, config))
            signatures.append(signature.astype(np.uint8))  # its lowest byte: enough to compare
    np.save(folder / EXACT, np.asarray(exact, np.uint64))
    if config.method == "near":
        count = band_shape(config)[0]
        np.save(folder / BANDS, np.concatenate(bands, axis=1) if bands else np.empty((count, 0), np.uint64))
        empty = np.empty((0, PERMUTATIONS), np.uint8)
        np.save(folder / SIGNATURES, np.concatenate(signatures) if signatures else empty)


def near_signatures(samples: Sequence[Said]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Sketch samples by MinHash over runs of words.

    Returns:
        [N, P] minima, and [N] whether a text is long enough to be compared (two runs that share no word).
    """
    hashes = _word_hashes()
    words = [hashes.of(said.text) for said in samples]
    known = np.array([len(found) >= 2 * SHINGLE_WORDS for found in words], bool)
    # Said beside something else, no run is the same.
    runs = [
        ngram_hashes(found, SHINGLE_WORDS) ^ np.uint64(_beside(said))
        for found, said in zip(words, samples, strict=True)
    ]
    return min_hashes(runs), known


def _beside(said: Said) -> int:
    return text_hash(said.beside) if said.beside else 0


def min_hashes(sets: Sequence[UInt64]) -> NDArray[np.uint32]:
    """Sketch sets of hashes by MinHash, [N, P]."""
    model = _sketch()
    signatures = np.empty((len(sets), PERMUTATIONS), np.uint32)
    for i, hashes in enumerate(sets):
        model.clear()
        model.update_batch(np.unique(hashes.astype(np.uint32)).tolist())
        signatures[i] = model.hashvalues
    return signatures


def band_shape(config: DedupConfig) -> tuple[int, int]:
    """Return the number of bands and the rows of each that find most pairs over the threshold."""
    return _bands(config.threshold)


def find_duplicates(folders: Sequence[Path], config: DedupConfig) -> Duplicates:
    """Merge the fingerprints of all shards, in order.

    Args:
        folders: what write_fingerprints filled, one per shard; the same folder may come again.
        config: as they were written with.
    """
    exact = _earlier_equal(np.concatenate([np.load(f / EXACT) for f in folders]))
    near = np.full(len(exact), -1, np.int64)
    if config.method == "near":
        signatures = _Signatures(folders)
        for band in range(band_shape(config)[0]):
            # Mapped and copied row by row: one band of all samples is all that is in memory.
            column = np.concatenate([np.load(f / BANDS, mmap_mode="r")[band] for f in folders])
            _link(column, near, signatures, config.threshold)
        near[exact >= 0] = -1
    return Duplicates(exact, near)


def _link(column: UInt64, near: Int64, signatures: _Signatures, threshold: float) -> None:
    """Look at the pairs of a band: each sample with the first and with the one before it among its equals."""
    order = np.argsort(column, kind="stable")
    equal = column[order]
    same = (equal[1:] == equal[:-1]) & (equal[1:] != 0)
    begins = np.flatnonzero(np.concatenate([[True], ~same]))
    first = order[np.repeat(begins, np.diff(np.append(begins, len(order))))]
    later = np.flatnonzero(same) + 1
    for earlier in (first[later], order[later - 1]):
        sample = order[later]
        open_ = (near[sample] < 0) & (earlier != sample)
        sample, earlier = sample[open_], earlier[open_]
        for at in range(0, len(sample), _PAIRS):
            some, others = sample[at : at + _PAIRS], earlier[at : at + _PAIRS]
            alike = signatures.similarity(some, others) >= threshold
            near[some[alike]] = others[alike]


class _Signatures:
    """The signatures of all samples, memory-mapped shard by shard."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._files = [folder / SIGNATURES for folder in folders]
        counts = [np.load(file, mmap_mode="r").shape[0] for file in self._files]
        self._begins = np.concatenate([[0], np.cumsum(counts)])

    def similarity(self, some: Int64, others: Int64) -> NDArray[np.float64]:
        """Estimate the Jaccard similarity of pairs, [pairs]."""
        equal = (self._rows(some) == self._rows(others)).mean(axis=1)
        # Of a byte each, one in 256 agrees by chance (Li and Koenig, b-bit minwise hashing, WWW 2010).
        return np.asarray((equal - 1 / 256) / (1 - 1 / 256))

    def _rows(self, samples: Int64) -> NDArray[np.uint8]:
        shard = np.searchsorted(self._begins, samples, side="right") - 1
        rows: NDArray[np.uint8] | None = None
        for number in np.unique(shard).tolist():
            mine = shard == number
            found = np.load(self._files[number], mmap_mode="r")[samples[mine] - self._begins[number]]
            if rows is None:
                rows = np.empty((len(samples), found.shape[1]), np.uint8)
            rows[mine] = found
        return rows if rows is not None else np.empty((0, 1), np.uint8)


def band_hashes(signatures: NDArray[np.uint32], known: NDArray[np.bool_], config: DedupConfig) -> UInt64:
    """Hash each band of each signature, [B, N]; 0 where a text is too short to be compared."""
    bands, rows = band_shape(config)
    cut = signatures[:, : bands * rows].reshape(len(signatures), bands, rows).astype(np.uint64)
    hashed = np.stack([ngram_hashes_of_rows(cut[:, band]) for band in range(bands)])
    hashed[hashed == 0] = 1
    hashed[:, ~known] = 0
    return hashed


def ngram_hashes_of_rows(values: UInt64) -> UInt64:
    """Hash each row of [N, n] numbers, [N]."""
    flat = ngram_hashes(values.reshape(-1), values.shape[1])
    return flat[:: values.shape[1]]


def _earlier_equal(hashes: UInt64) -> Int64:
    """Return the first sample with the same hash, [N]; -1 for the first itself."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = first[inverse].astype(np.int64)
    earlier[first] = -1
    return earlier


def _chunks(samples: Iterable[Said], size: int) -> Iterator[list[Said]]:
    chunk: list[Said] = []
    for said in samples:
        chunk.append(said)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@cache
def _word_hashes() -> WordHashes:
    return WordHashes()


@cache
def _sketch() -> Any:
    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=_itself, scheme="affine32")


@cache
def _bands(threshold: float) -> tuple[int, int]:
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(1 - _MISS_WEIGHT, _MISS_WEIGHT))
    return int(index.b), int(index.r)


def _itself(value: int) -> int:
    return value
