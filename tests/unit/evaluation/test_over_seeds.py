"""Differences over seeds and prompts: intervals that cover, by simulation, and findings that are no seed's own."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from nemo_cascade.evaluation.over_seeds import over_seeds


def drawn(rng, seeds, prompts, mean, seed_sd, prompt_sd, rest_sd, same):
    """Return the differences of seeds in a two-way model, on the same prompts or on prompts of their own."""
    prompt = rng.normal(0, prompt_sd, (1 if same else seeds, prompts))
    value = mean + rng.normal(0, seed_sd, (seeds, 1)) + prompt + rng.normal(0, rest_sd, (seeds, prompts))
    return [{f"{0 if same else s}/{i}": float(x) for i, x in enumerate(row)} for s, row in enumerate(value)]


def test_seeds_with_prompts_of_their_own_are_a_t_test_of_their_means():
    found = drawn(np.random.default_rng(0), 4, 50, 0.1, 0.05, 0.2, 0.3, same=False)
    got = over_seeds(found)
    means = [np.mean(list(by_prompt.values())) for by_prompt in found]
    expected = ttest_1samp(means, 0)
    interval = expected.confidence_interval(0.95)
    assert (got.p, got.low, got.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    assert got.by_seed == pytest.approx(means)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("seed_sd", "prompt_sd"), [(0.05, 0.0), (0.0, 0.3), (0.05, 0.3), (0.0, 0.0)])
def test_the_interval_covers_whatever_varies(same, seed_sd, prompt_sd):
    """95 % of 600, and three standard errors below: a method that covers 90 % fails."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        got = over_seeds(drawn(rng, 3, 60, 0.1, seed_sd, prompt_sd, 0.3, same))
        covered += got.low <= 0.1 <= got.high
    assert covered / 600 > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 600)


def test_one_lucky_seed_is_no_finding_and_three_alike_are():
    def seeds(*means):
        return [{f"{m}/{i}": m + 0.01 * (-1) ** i for i in range(400)} for m in means]

    assert over_seeds(seeds(0.3, 0.0, -0.02)).p > 0.3
    steady = over_seeds(seeds(0.30, 0.31, 0.29))
    assert steady.p < 0.001
    assert 0.27 < steady.low < 0.3 < steady.high < 0.33


def test_no_spread_at_all_is_certain_either_way():
    assert over_seeds([{"a": 0.0}, {"b": 0.0}]).p == 1
    assert over_seeds([{"a": 0.5}, {"b": 0.5}]).p == 0
