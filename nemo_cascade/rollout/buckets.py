"""Weights on their way from trainer to engine: buckets, each a file in memory with a manifest and a hash.

A bucket's file holds tensors end to end, every one aligned to 64 bytes. The manifest travels beside it (by message),
so a reader never trusts the file: it checks the size and the blake3 of the bytes before it looks at a tensor.

The file has no name (memfd): processes of the same machine open it through its owner's descriptor, whatever is mounted
where, and the kernel frees it with its owner, however that ends.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from blake3 import blake3
from numpy.typing import NDArray

from nemo_cascade.errors import WeightSyncError

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64
# Names are torch's, so that a manifest can be read without torch.
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies in its bucket: HF name, torch dtype name, shape, byte offset and byte count.

    `checksum` is that of `checksums.checksum`, for the engine's workers to prove what they hold; None proves nothing.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    checksum: int | None = None


@dataclass(frozen=True, slots=True)
class WeightBucket:
    """One bucket: `index` counts from 0 within a sync; `digest` is the blake3 of the whole file.

    `path` leads to the file for other processes of its owner's machine.
    """

    index: int
    path: str
    entries: tuple[TensorEntry, ...]
    nbytes: int
    digest: str

    def copied(self, content: NDArray[np.uint8]) -> WeightBucket:
        """Return the same bucket in a file of this process's own, for engines on another machine than its sender.

        Raises:
            WeightSyncError: there is no memory for it.
        """
        descriptor = _reserved(self.index, content.nbytes)
        with open(descriptor, "r+b", closefd=False) as file:
            file.write(content.data)
        return replace(self, path=_path(descriptor))

    def release(self) -> None:
        """Free the file; only its owner can."""
        owner, _, descriptor = self.path.removeprefix("/proc/").partition("/fd/")
        assert int(owner) == os.getpid(), f"{self.path} belongs to another process"
        os.close(int(descriptor))


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
    weights: Iterable[tuple[str, torch.Tensor]],
    bucket_bytes: int,
    dtype: str,
    *,
    checksums: bool = False,
    fp32: frozenset[str] = frozenset(),
) -> Iterator[WeightBucket]:
    """Write weights into buckets, yielding each once its file is complete; the caller releases it.

    A tensor is never split: one that is larger than `bucket_bytes` has a bucket to itself.

    Args:
        weights: HF name and full tensor, on any device.
        bucket_bytes: target size of a bucket.
        dtype: torch dtype name that floating-point tensors are cast to, the engine's.
        checksums: also sum every tensor, on its own device, for the proof of what the engine holds.
        fp32: names of those that the engine holds in float32 whatever its dtype.

    Raises:
        WeightSyncError: there is no memory for a bucket.
    """
    index, size = 0, 0
    pending: list[tuple[str, torch.Tensor, int | None]] = []
    for name, tensor in weights:
        cast = _cast(tensor, "float32" if name in fp32 else dtype)
        nbytes = cast.numel() * cast.element_size()
        if pending and size + nbytes > bucket_bytes:
            yield _write(pending, index)
            index, size, pending = index + 1, 0, []
        pending.append((name, cast.to("cpu").contiguous(), _checksum(name, cast) if checksums else None))
        size += nbytes + ALIGNMENT
    if pending:
        yield _write(pending, index)


def _cast(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    import torch

    return tensor.detach().to(getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype)


def _checksum(name: str, tensor: torch.Tensor) -> int:
    from nemo_cascade.rollout.checksums import checksum, held_form  # torch, which readers of a manifest need not have

    return checksum(held_form(name, tensor))


def _write(tensors: Sequence[tuple[str, torch.Tensor, int | None]], index: int) -> WeightBucket:
    import torch

    entries, offset = [], 0
    for name, tensor, checksum in tensors:
        nbytes = tensor.numel() * tensor.element_size()
        kind = str(tensor.dtype).removeprefix("torch.")
        entries.append(TensorEntry(name, kind, tuple(tensor.shape), offset, nbytes, checksum))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    descriptor = _reserved(index, offset)
    with mmap.mmap(descriptor, offset) as memory:
        view = np.frombuffer(memory, dtype=np.uint8)
        for (_, tensor, _), entry in zip(tensors, entries, strict=True):
            view[entry.offset : entry.offset + entry.nbytes] = tensor.view(-1).view(torch.uint8).numpy()
        digest = blake3(view.data).hexdigest()
        del view
    return WeightBucket(index, _path(descriptor), tuple(entries), offset, digest)


def _path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _reserved(index: int, nbytes: int) -> int:
    """Return a file in memory of this size.

    Allocated now: memory that runs out under a mapping would kill the process with SIGBUS.
    """
    descriptor = os.memfd_create(f"bucket_{index:05d}", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
    except OSError as error:
        os.close(descriptor)
        raise WeightSyncError(
            f"no memory for a weight bucket ({error.strerror})",
            value=f"{nbytes / 2**20:.0f} MiB",
            limit=f"{psutil.virtual_memory().available / 2**20:.0f} MiB available",
            mend="give the node more memory, or lower rollout.weight_sync.bucket_mib",
        ) from error
    return descriptor


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
                mend="memory or network of this node corrupt data: look at its hardware errors",
            )

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Yield (HF name, torch tensor); the tensors are private views that die with the context."""
        import torch

        for entry in self.bucket.entries:
            raw = torch.from_numpy(self._view[entry.offset : entry.offset + entry.nbytes])
            yield entry.name, raw.view(getattr(torch, entry.dtype)).view(entry.shape)
