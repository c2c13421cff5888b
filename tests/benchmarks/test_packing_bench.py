"""Packing millions of lengths against TRL's and NeMo's ways, same lengths, one run."""

import time

import numpy as np
import pytest

from nemo_cascade.data.sft.packing import pack_best_fit

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

SAMPLES, PEER_SAMPLES = 2_770_000, 100_000


def drawn_lengths(count, capacity):
    """Log-normal, mean 6,000 before the cap, which the longest are cut to."""
    sigma = 0.8
    drawn = np.random.default_rng(0).lognormal(np.log(6000) - sigma**2 / 2, sigma, count)
    return np.clip(drawn, 1, capacity).astype(np.int64)


def timed(work):
    begin = time.process_time()
    packs = work()
    return time.process_time() - begin, packs


def trl_packs(lengths, capacity):
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars
    from trl.data_utils import pack_dataset

    disable_progress_bars()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = pa.array(np.zeros(int(offsets[-1]), np.int32))
    column = pa.LargeListArray.from_arrays(pa.array(offsets), tokens)
    dataset = Dataset(pa.table({"input_ids": column}))
    return timed(lambda: len(pack_dataset(dataset, capacity, strategy="bfd")))


@pytest.mark.parametrize("capacity", [16_384, 32_768])
def test_packing_of_millions(capacity):
    lengths = drawn_lengths(SAMPLES, capacity)
    limit = -(-int(lengths.sum()) // capacity)
    print(f"\npacking {SAMPLES:,} lengths, mean {lengths.mean():.0f}, into {capacity:,}; at least {limit:,} packs")
    for order in ("decreasing", "drawn"):
        seconds, packing = timed(lambda order=order: pack_best_fit(lengths, capacity, 0, order))
        print(
            f"  best fit, {order:12s} {seconds:6.2f} s   {len(packing):9,} packs = limit x{len(packing) / limit:.5f}"
            f"   fill {packing.fill:.5f}"
        )
        if order == "decreasing":
            assert seconds < 5
            assert packing.fill >= 0.999


@pytest.mark.parametrize("capacity", [16_384, 32_768])
def test_packing_against_peers(capacity):
    # The peers are the extra `bench`; without it this fails, since a comparison with nothing is none.
    from nemo.utils.sequence_packing_utils import first_fit_decreasing, first_fit_shuffle

    lengths = drawn_lengths(PEER_SAMPLES, capacity)
    limit = -(-int(lengths.sum()) // capacity)
    ours, packing = timed(lambda: pack_best_fit(lengths, capacity))
    found = {"best fit decreasing (ours)": (ours, len(packing))}
    found["TRL pack_dataset(strategy='bfd')"] = trl_packs(lengths, capacity)
    for peer in (first_fit_decreasing, first_fit_shuffle):
        found[f"NeMo {peer.__name__}"] = timed(lambda peer=peer: len(peer(lengths.tolist(), capacity)))
    # TRL also writes the packed tokens; that is part of its one function.
    print(f"\npacking {PEER_SAMPLES:,} lengths into {capacity:,}; at least {limit:,} packs")
    for name, (seconds, packs) in found.items():
        fill = lengths.sum() / (packs * capacity)
        print(f"  {name:42s} {seconds:7.2f} s  x{seconds / ours:6.1f}   {packs:7,} packs   fill {fill:.5f}")
    assert all(packs >= len(packing) for _, packs in found.values())
    assert all(seconds > ours for name, (seconds, _) in found.items() if "ours" not in name)
