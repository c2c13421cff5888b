import errno
from pathlib import Path

import pytest
import torch

from nemo_cascade.errors import WeightSyncError
from nemo_cascade.rollout import buckets
from nemo_cascade.rollout.buckets import OpenBucket, SyncSummary, write_buckets


def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed": (50, 16), "norm": (16,), "wide": (64, 100), "scalar": (), "head": (50, 16)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def read(written):
    found = {}
    for bucket in written:
        with OpenBucket(bucket) as opened:
            opened.check()
            found |= {name: tensor.clone() for name, tensor in opened.tensors()}
    return found


def test_buckets_carry_every_bit_and_split_by_size(tmp_path):
    sent = weights()
    written = list(write_buckets(sent.items(), tmp_path, 4096, "float32"))
    assert [[e.name for e in b.entries] for b in written] == [["embed", "norm"], ["wide"], ["scalar", "head"]]
    received = read(written)
    assert received.keys() == sent.keys()
    assert all(torch.equal(received[n], sent[n]) and received[n].shape == sent[n].shape for n in sent)
    assert SyncSummary.of(written).tensors == 5


def test_weights_are_cast_to_the_engines_dtype_once(tmp_path):
    sent = weights()
    received = read(write_buckets(sent.items(), tmp_path, 1 << 20, "bfloat16"))
    assert all(torch.equal(received[n], sent[n].to(torch.bfloat16)) for n in sent)


def test_views_of_larger_tensors_are_written_as_they_look(tmp_path):
    whole = torch.arange(24.0).view(4, 6)
    received = read(write_buckets([("part", whole[:, 1:4]), ("turned", whole.t())], tmp_path, 1 << 20, "float32"))
    assert torch.equal(received["part"], whole[:, 1:4])
    assert torch.equal(received["turned"], whole.t())


def test_one_flipped_bit_is_noticed(tmp_path):
    (bucket,) = write_buckets(weights().items(), tmp_path, 1 << 20, "float32")
    raw = bytearray(Path(bucket.path).read_bytes())
    raw[1000] ^= 1
    Path(bucket.path).write_bytes(raw)
    with OpenBucket(bucket) as opened, pytest.raises(WeightSyncError, match="changed on its way"):
        opened.check()


def test_a_truncated_or_missing_file_is_a_typed_error(tmp_path):
    (bucket,) = write_buckets(weights().items(), tmp_path, 1 << 20, "float32")
    Path(bucket.path).write_bytes(b"")
    with pytest.raises(WeightSyncError, match="can't be read"), OpenBucket(bucket):
        pass
    Path(bucket.path).unlink()
    with pytest.raises(WeightSyncError, match="can't be read"), OpenBucket(bucket):
        pass


def test_full_shared_memory_is_an_error_and_not_a_sigbus(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(buckets.os, "posix_fallocate", full)
    with pytest.raises(WeightSyncError, match="bucket_mib"):
        list(write_buckets(weights().items(), tmp_path, 4096, "float32"))
    assert list(tmp_path.iterdir()) == []


def test_the_summary_depends_on_order_and_content(tmp_path):
    first, second = (
        list(write_buckets(order, tmp_path, 1, "float32"))
        for order in (list(weights().items()), list(weights().items())[::-1])
    )
    assert SyncSummary.of(first).nbytes == SyncSummary.of(second).nbytes
    assert SyncSummary.of(first).digest != SyncSummary.of(second).digest
