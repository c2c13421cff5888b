"""The paired test against definitions, exact distributions and simulation."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom, t

from nemo_cascade.evaluation.paired import compare_paired, detectable_change, p_below

LEVELS = (0.05, 0.01, 0.001, 0.0002)


def error_rate(value, chance, bound, n, cases=100_000, seed=0):
    """Return the largest ratio of the rate of false findings to the level, where the true mean is `bound` or above."""
    value, chance = np.array(value, float), np.array(chance)
    assert value @ chance >= bound - 1e-12
    counts = np.random.default_rng(seed).multinomial(n, chance, size=cases)
    unique, times = np.unique(counts, axis=0, return_counts=True)
    p = np.concatenate([p_below(np.repeat(value, row)[None, :], bound) for row in unique])
    # A rate is believed to be above its level only beyond three standard errors.
    return max(((times[p < level].sum() / cases) - 3 * np.sqrt(level / cases)) / level for level in LEVELS)


def test_the_likelihood_is_that_of_the_nearest_distribution_with_the_mean_of_the_bound():
    rng = np.random.default_rng(0)
    d, bound = rng.choice([-1.0, -0.5, 0.0, 0.5], 30, p=[0.3, 0.2, 0.4, 0.1]), -0.1
    # Weights of the 30 prompts and of half a prompt at the largest rise, found by a general optimiser.
    x, weight = np.append(d, 1.0), np.append(np.ones(30), 0.5)

    def loss(theta):
        return -(weight * np.log1p(theta[0] * (bound - x))).sum()

    best = -minimize(loss, [0.1], bounds=[(0, 0.9 / (1 - bound))], tol=1e-14).fun
    assert p_below(d[None, :], bound)[0] == pytest.approx(t.cdf(-np.sqrt(2 * best), 29), rel=1e-5)


def test_swapping_sides_swaps_the_answers_and_order_and_company_change_none():
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    one, swapped, order = compare_paired(a, b), compare_paired(b, a), rng.permutation(50)
    assert (swapped.difference, swapped.p_less, swapped.p_greater) == (-one.difference, one.p_greater, one.p_less)
    assert compare_paired(a[order], b[order]).p_greater == pytest.approx(one.p_greater, rel=1e-9)
    batch = np.stack([a - b, b - a, np.round(a - b), np.zeros(50), rng.normal(-3, 1, 50)])
    alone = np.concatenate([p_below(row[None, :], 0.0) for row in batch])
    assert p_below(batch, 0.0) == pytest.approx(alone, rel=1e-9)
    # Scores in another unit are the same scores.
    assert p_below(10 * batch, -0.2) == pytest.approx(p_below(batch, -0.02), rel=1e-9)


@pytest.mark.parametrize("n", [12, *(pytest.param(n, marks=pytest.mark.long) for n in (60, 400))])
@pytest.mark.parametrize(
    ("value", "chance", "bound"),
    [
        pytest.param([-1, 0], [0.02, 0.98], -0.02, id="few losses, no wins, at the margin"),
        pytest.param([-1, 0, 1], [0.07, 0.88, 0.05], -0.02, id="few prompts differ, at the margin"),
        pytest.param([-1, 0, 1], [0.32, 0.38, 0.30], -0.02, id="many prompts differ, at the margin"),
        pytest.param([-1, 0, 1], [0.03, 0.94, 0.03], 0.0, id="few prompts differ, no change"),
        pytest.param([-1, -0.5, 0, 0.5, 1], [0.01, 0.08, 0.84, 0.06, 0.01], -0.01, id="two samples, at the margin"),
        pytest.param([-2, -0.6, 0, 0.6, 2], [0.03, 0.05, 0.84, 0.05, 0.03], 0.0, id="from -1 to 1, no change"),
        pytest.param([-0.5, -0.25, 0, 0.25, 0.5, 1], [0.1, 0.2, 0.36, 0.2, 0.1, 0.04], 0.0, id="graded, skewed"),
    ],
)
def test_false_findings_are_no_more_frequent_than_the_level_down_to_two_in_ten_thousand(value, chance, bound, n):
    assert error_rate(value, chance, bound, n) <= 1.0


def test_few_differing_prompts_never_give_more_certainty_than_coins():
    a, b = np.zeros(400), np.zeros(400)
    for differing in range(1, 20):
        a[:differing] = 1.0
        assert compare_paired(a, b).p_greater >= 2.0**-differing
    assert compare_paired(np.ones(1), np.zeros(1)).p_greater == 0.5


def test_equal_scores_are_significant_in_no_direction():
    got = compare_paired(np.ones(30), np.ones(30))
    assert (got.difference, got.low, got.high, got.p_greater, got.p_less) == (0, 0, 0, 1, 1)
    assert p_below(np.zeros((1, 30)), -0.02)[0] == 1


def test_of_losses_alone_it_knows_nearly_as_much_as_the_exact_test():
    for lost in (16, 20, 25):
        d = np.repeat([-1.0, 0.0], [lost, 400 - lost])
        exact = binom.sf(lost - 1, 400, 0.02)
        assert exact < p_below(d[None, :], -0.02)[0] < exact**0.65


def test_pairing_sees_what_unpaired_scores_hide():
    hard = (np.random.default_rng(2).random(200) < 0.5).astype(float)
    better = hard.copy()
    better[np.flatnonzero(hard == 0)[:12]] = 1.0
    assert compare_paired(better, hard).p_greater < 0.001


@pytest.mark.parametrize(("n", "k", "solved", "margin"), [(400, 1, 0.5, 0.02), (400, 1, 0.98, 0.02), (150, 4, 0.4, 0.0),
                                                         (60, 64, 0.7, 0.03), (1000, 2, 0.9, 0.02)])  # fmt: skip
def test_what_is_called_detectable_is_found_nine_times_in_ten(n, k, solved, margin):
    rng = np.random.default_rng(5)
    level, cases = 0.001, 600
    rate = rng.beta(0.5 * solved, 0.5 * (1 - solved), (cases, n))
    same = rng.binomial(k, rate) / k - rng.binomial(k, rate) / k
    fall = detectable_change(float(same.var(axis=1).mean()), n, k, level, margin)
    after = rng.binomial(k, rate * (1 - fall / solved)) / k
    found = (p_below(after - rng.binomial(k, rate) / k, -margin) < level).mean()
    assert 0.88 <= found <= 0.999, fall


def test_more_prompts_more_samples_or_a_looser_level_find_smaller_changes():
    base = detectable_change(0.1, 400, 1, 0.001, 0.02)
    assert 0.02 < detectable_change(0.1, 1600, 1, 0.001, 0.02) < base
    assert detectable_change(0.05, 400, 2, 0.001, 0.02) < base
    assert detectable_change(0.1, 400, 1, 0.05, 0.02) < base
    assert detectable_change(0.1, 1, 1, 0.001) == 1.0
