import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
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


def test_buckets_carry_every_bit_and_split_by_size():
    sent = weights()
    written = list(write_buckets(sent.items(), 4096, "float32"))
    assert [[e.name for e in b.entries] for b in written] == [["embed", "norm"], ["wide"], ["scalar", "head"]]
    received = read(written)
    assert received.keys() == sent.keys()
    assert all(torch.equal(received[n], sent[n]) and received[n].shape == sent[n].shape for n in sent)
    assert SyncSummary.of(written).tensors == 5


def test_weights_are_cast_to_the_engines_dtype_once():
    sent = weights()
    received = read(write_buckets(sent.items(), 1 << 20, "bfloat16"))
    assert all(torch.equal(received[n], sent[n].to(torch.bfloat16)) for n in sent)


def test_views_of_larger_tensors_are_written_as_they_look():
    whole = torch.arange(24.0).view(4, 6)
    received = read(write_buckets([("part", whole[:, 1:4]), ("turned", whole.t())], 1 << 20, "float32"))
    assert torch.equal(received["part"], whole[:, 1:4])
    assert torch.equal(received["turned"], whole.t())


def test_one_flipped_bit_is_noticed():
    (bucket,) = write_buckets(weights().items(), 1 << 20, "float32")
    raw = bytearray(Path(bucket.path).read_bytes())
    raw[1000] ^= 1
    Path(bucket.path).write_bytes(raw)
    with OpenBucket(bucket) as opened, pytest.raises(WeightSyncError, match="changed on its way"):
        opened.check()


def test_a_truncated_or_missing_file_is_a_typed_error():
    (bucket,) = write_buckets(weights().items(), 1 << 20, "float32")
    Path(bucket.path).write_bytes(b"")
    with pytest.raises(WeightSyncError, match="can't be read"), OpenBucket(bucket):
        pass
    bucket.release()
    with pytest.raises(WeightSyncError, match="can't be read"), OpenBucket(bucket):
        pass


def test_memory_that_runs_out_is_an_error_and_not_a_sigbus(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(buckets.os, "posix_fallocate", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(WeightSyncError, match="bucket_mib"):
        list(write_buckets(weights().items(), 4096, "float32"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_bucket_dies_with_its_owner_and_a_copy_has_an_owner_of_its_own():
    reading = (
        "import sys, torch\n"
        "from nemo_cascade.rollout.buckets import write_buckets\n"
        "(bucket,) = write_buckets([('w', torch.arange(6.0))], 1 << 20, 'float32')\n"
        "print(bucket.path, flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", reading], stdin=pipe, stdout=pipe, text=True) as owner:
        path = owner.stdout.readline().strip()
        (same,) = write_buckets([("w", torch.arange(6.0))], 1 << 20, "float32")
        assert read([replace(same, path=path)])["w"].tolist() == list(range(6))
        copy = same.copied(np.fromfile(path, np.uint8))
        owner.kill()
    assert not os.path.exists(path)
    same.release()
    assert read([copy])["w"].tolist() == list(range(6))
    copy.release()


def test_the_summary_depends_on_order_and_content():
    first, second = (
        list(write_buckets(order, 1, "float32")) for order in (list(weights().items()), list(weights().items())[::-1])
    )
    assert SyncSummary.of(first).nbytes == SyncSummary.of(second).nbytes
    assert SyncSummary.of(first).digest != SyncSummary.of(second).digest
