import time

import numpy as np
import pytest

from nemo_cascade.data.sft.packing import pack_best_fit


def slow_best_fit_packs(lengths, capacity):
    """Number of packs of best-fit decreasing by its definition: look through all packs every time."""
    free = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, space in enumerate(free) if space >= length]
        if fitting:
            free[min(fitting, key=lambda i: free[i])] -= length
        else:
            free.append(capacity - length)
    return len(free)


@pytest.mark.parametrize("capacity", [1, 7, 512, 513, 4096])
def test_packs_hold_every_sample_once_within_capacity_as_best_fit_does(capacity):
    rng = np.random.default_rng(capacity)
    for n in (1, 2, 50, 400):
        lengths = rng.integers(1, capacity + 1, n)
        packing = pack_best_fit(lengths, capacity, seed=n)
        assert sorted(packing.samples) == list(range(n))
        loads = [lengths[packing.members(p)].sum() for p in range(len(packing))]
        assert max(loads) <= capacity
        assert len(packing) == slow_best_fit_packs(lengths.tolist(), capacity)
        assert packing.fill == pytest.approx(sum(loads) / (len(packing) * capacity))


def test_seed_changes_order_and_neighbours_but_not_fill():
    lengths = np.repeat([10, 20, 30, 40], 50)
    first, again, other = (pack_best_fit(lengths, 100, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.samples, again.samples)
    assert first.fill == other.fill
    assert not np.array_equal(first.samples, other.samples)
    longest_first = [lengths[first.members(p)].max() for p in range(len(first))]
    assert longest_first != sorted(longest_first, reverse=True)


def test_drawn_order_mixes_lengths_in_each_pack_at_little_cost_of_fill():
    # Many samples of two lengths: longest first, nearly every pack holds one length only.
    lengths = np.repeat([10, 25], 400)
    mixed = {}
    for order in ("decreasing", "drawn"):
        packing = pack_best_fit(lengths, 100, 0, order)
        assert sorted(packing.samples) == list(range(800))
        mixed[order] = np.mean([len(set(lengths[packing.members(p)])) == 2 for p in range(len(packing))])
        assert packing.fill > 0.95
    assert mixed["decreasing"] < 0.05 < 0.8 < mixed["drawn"]


def test_no_samples_make_no_packs():
    assert len(pack_best_fit([], 10)) == 0


@pytest.mark.parametrize("capacity", [32768, 262144])
def test_time_grows_no_faster_than_n_log_n(capacity):
    # A quadratic packer takes a thousand times longer for this many; a million take under three seconds.
    lengths = np.clip(np.random.default_rng(0).lognormal(7.5, 1, 100_000).astype(int), 1, capacity)
    begin = time.process_time()
    packing = pack_best_fit(lengths, capacity)
    assert time.process_time() - begin < 2.0
    assert packing.fill > 0.99
