"""Weights on their way from trainer to engine: buckets, each a file in shared memory with a manifest and a hash.

A bucket's file holds tensors end to end, every one aligned to 64 bytes. The manifest travels beside it (by message),
so a reader never trusts the file: it checks the size and the blake3 of the bytes before it looks at a tensor.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

from nemo_cascade.errors import WeightSyncError

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64
SHARED_MEMORY = Path("/dev/shm")
# Names are torch's, so that a manifest can be read without torch.
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies in its bucket: HF name, torch dtype name, shape, byte offset and byte count."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class WeightBucket:
    """One bucket: `index` counts from 0 within a sync; `digest` is the blake3 of the whole file."""

    index: int
    path: str
    entries: tuple[TensorEntry, ...]
    nbytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class SyncSummary:
    """What the sender says it sent in one sync; the receiver must have counted the same."""

    buckets: int
    tensors: int
    nbytes: int
    digest: str

    @classmethod
    def of(cls, buckets: Sequence[WeightBucket]) -> SyncSummary:
        """Summarise the buckets of a sync; `digest` is the blake3 over their digests in order."""
        chain = blake3()
        for bucket in buckets:
            chain.update(bucket.digest.encode())
        return cls(
            buckets=len(buckets),
            tensors=sum(len(b.entries) for b in buckets),
            nbytes=sum(b.nbytes for b in buckets),
            digest=chain.hexdigest(),
        )


def write_buckets(
    weights: Iterable[tuple[str, torch.Tensor]], folder: Path, bucket_bytes: int, dtype: str
) -> Iterator[WeightBucket]:
    """Write weights into bucket files under `folder`, yielding each bucket once its file is complete.

    A tensor is never split: one that is larger than `bucket_bytes` has a bucket to itself.

    Args:
        weights: HF name and full tensor, on any device.
        folder: an existing folder in shared memory.
        bucket_bytes: target size of a bucket.
        dtype: torch dtype name that floating-point tensors are cast to, the engine's.

    Raises:
        WeightSyncError: shared memory is full.
    """
    index, size = 0, 0
    pending: list[tuple[str, torch.Tensor]] = []
    for name, tensor in weights:
        ready = _to_host(tensor, dtype)
        nbytes = ready.numel() * ready.element_size()
        if pending and size + nbytes > bucket_bytes:
            yield _write(pending, folder, index)
            index, size, pending = index + 1, 0, []
        pending.append((name, ready))
        size += nbytes + ALIGNMENT
    if pending:
        yield _write(pending, folder, index)


def _to_host(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    import torch

    target = getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device="cpu", dtype=target).contiguous()


def _write(tensors: Sequence[tuple[str, torch.Tensor]], folder: Path, index: int) -> WeightBucket:
    import torch

    entries, offset = [], 0
    for name, tensor in tensors:
        nbytes = tensor.numel() * tensor.element_size()
        kind = str(tensor.dtype).removeprefix("torch.")
        entries.append(TensorEntry(name, kind, tuple(tensor.shape), offset, nbytes))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    path = folder / f"bucket_{index:05d}"
    with open(path, "w+b") as file:
        _reserve(file.fileno(), offset, path)
        with mmap.mmap(file.fileno(), offset) as memory:
            view = np.frombuffer(memory, dtype=np.uint8)
            for (_, tensor), entry in zip(tensors, entries, strict=True):
                view[entry.offset : entry.offset + entry.nbytes] = tensor.view(-1).view(torch.uint8).numpy()
            digest = blake3(view.data).hexdigest()
            del view
    return WeightBucket(index, str(path), tuple(entries), offset, digest)


def _reserve(descriptor: int, nbytes: int, path: Path) -> None:
    """Allocate the file now: shared memory that runs out under a mapping would kill the process with SIGBUS."""
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        free = os.statvfs(path.parent)
        raise WeightSyncError(
            f"no room for a weight bucket in {path.parent} ({error.strerror})",
            value=f"{nbytes / 2**20:.0f} MiB",
            limit=f"{free.f_bavail * free.f_frsize / 2**20:.0f} MiB free",
            mend="give the container more shared memory (--shm-size), or lower rollout.weight_sync.bucket_mib",
        ) from error


class OpenBucket:
    """A bucket's file mapped into memory. A context manager."""

    def __init__(self, bucket: WeightBucket) -> None:
        self.bucket = bucket

    def __enter__(self) -> OpenBucket:
        try:
            with open(self.bucket.path, "rb") as file:
                self._view = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=np.uint8)
        except (OSError, ValueError) as error:
            raise WeightSyncError("a weight bucket can't be read", value=f"{self.bucket.path}: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        del self._view

    def check(self) -> None:
        """Prove that the file holds the bytes that were sent.

        Raises:
            WeightSyncError: its size or hash is another.
        """
        digest = blake3(self._view.data).hexdigest()
        if self._view.nbytes != self.bucket.nbytes or digest != self.bucket.digest:
            raise WeightSyncError(
                f"weight bucket {self.bucket.index} changed on its way to the engine",
                value=f"{self._view.nbytes} bytes, blake3 {digest[:16]}",
                limit=f"{self.bucket.nbytes} bytes, blake3 {self.bucket.digest[:16]}",
                mend="the trainer's and the engine's view of shared memory differ: check mounts and memory",
            )

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Yield (HF name, torch tensor); the tensors are private views that die with the context."""
        import torch

        for entry in self.bucket.entries:
            raw = torch.from_numpy(self._view[entry.offset : entry.offset + entry.nbytes])
            yield entry.name, raw.view(getattr(torch, entry.dtype)).view(entry.shape)
