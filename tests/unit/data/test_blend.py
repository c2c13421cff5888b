import numpy as np
import pytest

from nemo_cascade.config.stages.sft_data import SourceConfig
from nemo_cascade.data.sft.blend import epoch_entries
from nemo_cascade.errors import DataError


def source(domain="general", **fields):
    return SourceConfig(path=f"{domain}.jsonl", domain=domain, **fields)


def drawn(sources, counts, seed=0, balance=None, equal=None):
    """Blend sources of so many samples each; returns how often each is seen, by source, and the tokens by source."""
    of_source = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(7)
    lengths = rng.integers(10, 200, len(of_source)) if equal is None else np.full(len(of_source), equal)
    entries = epoch_entries(of_source, lengths, sources, seed, balance)
    times = np.bincount(entries, minlength=len(of_source))
    tokens = np.bincount(of_source, weights=lengths * times, minlength=len(counts))
    return [times[of_source == i] for i in range(len(counts))], tokens


def test_whole_repeats_take_every_sample_so_often():
    times, _ = drawn([source(), source(repeat=2), source(repeat=3.0)], [5, 7, 4])
    assert [set(t) for t in times] == [{1}, {2}, {3}]


def test_fractional_repeat_is_exact_in_tokens_and_draws_the_rest():
    (once, _), _ = drawn([source(repeat=1.5), source()], [1000, 3], equal=50)
    assert sorted(set(once)) == [1, 2]
    assert once.sum() == 1500
    assert once[:500].sum() not in (500, 1000), "drawn, not the first half"
    (part,), tokens = drawn([source(repeat=0.25)], [4000])
    whole = drawn([source()], [4000])[1]
    assert set(part) == {0, 1}
    assert abs(tokens[0] / whole[0] - 0.25) < 1e-3


def test_cap_on_tokens_is_kept_to_the_token_and_nearly_reached():
    _, tokens = drawn([source(max_tokens=10_000), source(repeat=2, max_tokens=10**9)], [1000, 100])
    assert 10_000 - 200 < tokens[0] <= 10_000
    assert tokens[1] == 2 * drawn([source(), source()], [1000, 100])[1][1]


def test_weights_are_token_shares_and_nobody_exceeds_its_repeat():
    times, tokens = drawn([source(weight=3), source(weight=1, repeat=2)], [4000, 1000])
    assert abs(tokens[0] / tokens.sum() - 0.75) < 2e-3
    assert max(times[0]) <= 1
    assert max(times[1]) <= 2
    # The scarcer of the two is used to its end.
    assert times[0].mean() == 1 or times[1].mean() == 2


def test_domains_are_balanced_and_sources_share_inside_them():
    sources = [source("math", weight=1), source("math", weight=3), source("code"), source("code")]
    _, tokens = drawn(sources, [3000, 3000, 3000, 1000], balance={"math": 2, "code": 1})
    share = tokens / tokens.sum()
    assert np.allclose(share[:2], [2 / 3 / 4, 2 / 3 * 3 / 4], atol=2e-3)
    assert abs(share[2:].sum() - 1 / 3) < 2e-3
    assert abs(share[2] / share[3] - 3) < 0.2


def test_same_seed_same_epoch_and_other_sources_change_no_draw():
    alone = drawn([source(repeat=0.5)], [1000])[0][0]
    assert np.array_equal(alone, drawn([source(repeat=0.5)], [1000])[0][0])
    assert not np.array_equal(alone, drawn([source(repeat=0.5)], [1000], seed=1)[0][0])
    of_source = np.repeat([0, 1], [1000, 50])
    lengths = np.concatenate([np.random.default_rng(7).integers(10, 200, 1000), np.full(50, 9)])
    both = epoch_entries(of_source, lengths, [source(repeat=0.5), source()], 0)
    assert np.array_equal(np.bincount(both, minlength=1050)[:1000], alone)


def test_interleaved_samples_are_blended_as_if_they_lay_apart():
    of_source = np.tile([0, 1], 500)
    entries = epoch_entries(of_source, np.full(1000, 10), [source(repeat=0.5), source(repeat=2)], 3)
    times = np.bincount(entries, minlength=1000)
    assert times[::2].sum() == 250
    assert set(times[1::2]) == {2}


def test_epoch_without_samples_is_refused():
    with pytest.raises(DataError, match="no sample"):
        drawn([source(weight=1), source(weight=1)], [5, 0])
    with pytest.raises(DataError, match=r"less than its shortest sample; got: general.jsonl, 50 tokens.*max_tokens=1"):
        drawn([source(max_tokens=1)], [5], equal=50)


def test_source_whose_share_is_less_than_a_sample_still_brings_its_shortest():
    of_source, lengths = np.array([0, 1, 1, 1]), np.array([10, 900, 700, 800])
    entries = epoch_entries(of_source, lengths, [source(weight=1), source(weight=1)], 0)
    assert entries.tolist() == [0, 2]
    entries = epoch_entries(of_source, lengths, [source(), source(repeat=0.01)], 0)
    assert entries.tolist() == [0, 2]
