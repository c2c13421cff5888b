"""Statistics against definitions, brute force and simulation."""

import math
from itertools import combinations

import numpy as np
import pytest

from nemo_cascade.evaluation.statistics import paired_bootstrap, pass_at_k, standard_error


def by_index(a, b, samples, seed):
    """Return the bootstrap as textbooks draw it: indices with replacement, one resample after the other."""
    rng = np.random.default_rng(seed)
    d = a - b
    means = np.array([d[rng.integers(0, d.size, d.size)].mean() for _ in range(samples)])
    return (means <= 1e-15).mean(), (means >= -1e-15).mean(), *np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("kind", ["binary", "average of 4", "continuous"])
def test_bootstrap_agrees_with_drawing_indices(kind):
    rng = np.random.default_rng(7)
    k = {"binary": 1, "average of 4": 4, "continuous": 1}[kind]
    a = rng.random((80, k)) < 0.50
    b = rng.random((80, k)) < 0.42
    a, b = (a.mean(axis=1), b.mean(axis=1)) if kind != "continuous" else (rng.normal(0.1, 1, 80), rng.normal(0, 1, 80))
    got = paired_bootstrap(a, b, samples=20000, seed=1)
    greater, less, low, high = by_index(a, b, samples=4000, seed=2)
    assert got.difference == pytest.approx((a - b).mean(), abs=1e-12)
    # Monte Carlo error of the slower side: 4 standard deviations of a share of 4000.
    assert abs(got.p_greater - greater) < 4 * math.sqrt(greater * (1 - greater) / 4000) + 1e-3
    assert abs(got.p_less - less) < 4 * math.sqrt(less * (1 - less) / 4000) + 1e-3
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.015)


def test_bootstrap_is_seeded_symmetric_and_blind_to_prompt_order():
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    one, again = paired_bootstrap(a, b, 2000, seed=3), paired_bootstrap(a, b, 2000, seed=3)
    order = rng.permutation(50)
    assert one == again
    swapped = paired_bootstrap(b, a, 2000, seed=4)
    assert swapped.difference == -one.difference
    assert swapped.p_less == pytest.approx(one.p_greater, abs=0.05)
    shuffled = paired_bootstrap(a[order], b[order], 2000, seed=3)
    assert (shuffled.p_greater, shuffled.low) == pytest.approx((one.p_greater, one.low), abs=1e-12)


def test_false_alarms_come_at_about_the_stated_rate():
    rng = np.random.default_rng(1)
    alarms = 0
    for trial in range(400):
        a, b = (rng.random((2, 120)) < 0.4).astype(float)
        alarms += paired_bootstrap(a, b, 500, seed=trial).p_greater < 0.05
    assert 4 <= alarms <= 36  # 20 expected, standard deviation 4.4


def test_pairing_sees_what_unpaired_scores_hide():
    rng = np.random.default_rng(2)
    hard = (rng.random(200) < 0.5).astype(float)
    better = hard.copy()
    better[np.flatnonzero(hard == 0)[:12]] = 1.0
    assert paired_bootstrap(better, hard, 5000, seed=0).p_greater < 0.001


def test_equal_scores_are_significant_in_no_direction():
    got = paired_bootstrap(np.ones(30), np.ones(30), 1000, seed=0)
    assert (got.difference, got.low, got.high, got.p_greater, got.p_less) == (0, 0, 0, 1, 1)


def test_few_differing_prompts_never_give_more_certainty_than_coins():
    a, b = np.zeros(4), np.zeros(4)
    a[:] = 1.0
    assert paired_bootstrap(a, b, 10000, seed=0).p_greater == 2**-4
    assert paired_bootstrap(a[:1], b[:1], 10000, seed=0).p_greater == 0.5


def test_pass_at_k_equals_enumeration():
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations(range(n), k))
                expected = sum(any(i < c for i in draw) for draw in draws) / len(draws)
                got = pass_at_k(np.array([c]), np.array([n]), k)[0]
                assert got == pytest.approx(expected, abs=1e-12)


def test_standard_error_is_that_of_the_mean_over_prompts():
    score = np.array([0.0, 1.0, 0.5, 1.0])
    assert standard_error(score) == pytest.approx(np.sqrt(((score - 0.625) ** 2).sum() / 3 / 4))
    assert standard_error(score[:1]) is None
