"""Paired comparison of two models' scores on the same prompts. b comparisons of n prompts, k samples of each.

    d_i = a_i - b_i          per prompt, samples averaged
    H0: mean(d) >= bound     rejected where the data say that the mean lies below it

Scores are 0/1, averages of a few samples, or graded, and few prompts differ, so the normal approximation and the
bootstrap promise more than they keep in the small tails that many comparisons need. The test here is empirical
likelihood (Owen, Biometrika 75, 1988) with one value added to those observed: a rise as large as the largest change in
either direction, `reach` (where nothing has changed, rises are as large as falls). Of all distributions on these values
that have the mean `bound`, how likely is the one nearest to the data? (Its dual form is a bet: Honda and Takemura, COLT
2010; Waudby-Smith and Ramdas, arXiv 2010.09686.)

    U = max over 0 <= s < 1 / (reach - bound) of   sum_i log(1 + s (bound - d_i)) + 1/2 log(1 + s (bound - reach))
    p = P(T_{n-1} <= -sqrt(2 U)),   at least 2^-m where m prompts differ

The last term is half a prompt that speaks against the finding as strongly as any could: the continuity correction, and
what stands for rare rises that the sample happens not to hold (adjusted empirical likelihood: Chen, Variyath and
Abraham, JCGS 17, 2008; half a prompt in each cell of a paired 2 x 2 table: Agresti and Min, Statist. Med. 24, 2005).
2^-m is the chance that m fair coins fall alike. Error rates: tests/unit/evaluation/test_paired.py.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Float64 = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of the intervals that are shown."""
POWER = 0.9
"""With this probability a change of the size `detectable_change` is found."""
_AGAINST = 0.5  # prompts
_BISECTIONS = 40
# Bounds the memory of many comparisons at once: values that are worked on together (8 bytes each, some copies).
_CHUNK = 2_000_000


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much better `a` is than `b` on the same prompts.

    Attributes:
        difference: mean of a - b over prompts.
        stderr: its standard error over prompts; 0 for a single prompt.
        low: lower end of the 95 % interval of the difference (Student's t).
        high: upper end.
        p_greater: one-sided p-value of "a is no better than b"; small means better.
        p_less: one-sided p-value of "a is no worse than b"; small means worse.
        n: prompts compared.
    """

    difference: float
    stderr: float
    low: float
    high: float
    p_greater: float
    p_less: float
    n: int


def compare_paired(a_n: Float64, b_n: Float64) -> PairedDifference:
    """Compare two models' scores on the same prompts.

    Args:
        a_n: scores of one model, samples already averaged per prompt.
        b_n: scores of the other, in the same prompt order.
    """
    assert a_n.shape == b_n.shape, "one score per prompt on both sides"
    assert a_n.ndim == 1, "one score per prompt on both sides"
    assert a_n.size > 0, "nothing to compare"
    difference_n = np.asarray(a_n, np.float64) - np.asarray(b_n, np.float64)
    n, mean = difference_n.size, float(difference_n.mean())
    stderr = float(difference_n.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    half = float(stdtrit(max(n - 1, 1), 0.5 + CONFIDENCE / 2)) * stderr
    return PairedDifference(
        difference=mean,
        stderr=stderr,
        low=mean - half,
        high=mean + half,
        p_greater=float(p_below(-difference_n, 0.0)),
        p_less=float(p_below(difference_n, 0.0)),
        n=n,
    )


def p_below(difference_bn: Float64, bound: float) -> Float64:
    """Return the one-sided p-values of "the mean difference is at least `bound`", [b]; formula at the top.

    Args:
        difference_bn: differences by prompt, any number of comparisons of as many prompts each.
        bound: 0 for "no worse", -0.02 for "worse by no more than 0.02"; never positive.
    """
    assert bound <= 0, "a difference that is asked for isn't tolerated"
    leading, n = difference_bn.shape[:-1], difference_bn.shape[-1]
    flat_bn = np.asarray(difference_bn, np.float64).reshape(-1, n)
    p_b = np.ones(len(flat_bn))
    reach_b = np.abs(flat_bn).max(axis=1, initial=0.0)
    # Only where the mean lies below the bound is there anything to tell; else U = 0 and p is called 1.
    (below_b,) = np.nonzero(flat_bn.mean(axis=1) < bound - 1e-12 * reach_b)
    step = max(1, _CHUNK // n)
    for start in range(0, below_b.size, step):
        rows = below_b[start : start + step]
        likelihood_b = _log_likelihood_ratio(bound - flat_bn[rows], bound - reach_b[rows])
        floor_b = 2.0 ** -np.count_nonzero(flat_bn[rows], axis=1).astype(np.float64)
        p_b[rows] = np.maximum(stdtr(max(n - 1, 1), -np.sqrt(2 * likelihood_b)), floor_b)
    return p_b.reshape(leading)


def _log_likelihood_ratio(gain_bn: Float64, against_b: Float64) -> Float64:
    """Return U, [b], of gains that hold evidence (means above 0) and of the `against_b` < 0 of half a prompt."""
    gain_bu, count_bu = _distinct(gain_bn)
    low_b, high_b = np.zeros(len(gain_bn)), -1 / against_b
    for _ in range(_BISECTIONS):
        s_b = (low_b + high_b) / 2
        slope_b = (count_bu * gain_bu / (1 + s_b[:, None] * gain_bu)).sum(axis=1)
        slope_b += _AGAINST * against_b / (1 + s_b * against_b)
        low_b, high_b = np.where(slope_b > 0, s_b, low_b), np.where(slope_b > 0, high_b, s_b)
    found_b = (count_bu * np.log1p(low_b[:, None] * gain_bu)).sum(axis=1) + _AGAINST * np.log1p(low_b * against_b)
    return np.asarray(np.maximum(found_b, 0.0), np.float64)


def _distinct(value_bn: Float64) -> tuple[Float64, Float64]:
    """Return the distinct values (0 where a row lacks them) and how often each row has them, [b, u], or all values.

    Scores of 0 and 1 have a handful of distinct differences, so that sums are over these, whatever n is.
    """
    rows, n = value_bn.shape
    value_u, where = np.unique(value_bn, return_inverse=True)
    if value_u.size >= n:
        return value_bn, np.ones((1, n))
    place_bn = where.reshape(rows, n) + value_u.size * np.arange(rows)[:, None]
    count_bu = np.bincount(place_bn.ravel(), minlength=rows * value_u.size).reshape(rows, -1)
    return np.where(count_bu > 0, value_u, 0.0), count_bu.astype(np.float64)


def detectable_change(
    variance: float, n: int, samples: float, level: float, margin: float = 0.0, span: float = 1.0
) -> float:
    """Return the smallest true change that a test at `level` finds with probability `POWER`; at most `span`.

    The change is spread over the prompts: within a prompt each sample is lost (or won) by itself, and from prompt to
    prompt the chance varies by as much as it amounts to. What hits a few prompts as a whole has to be larger.

        (change - m)^2 = (t_{1-level} + t_{power})^2 (variance + change (span - change) / samples + change^2) / n
        m = margin + span / (2 n sqrt(samples))      half a prompt speaks against the finding

    Args:
        variance: of the differences by prompt without the change.
        n: prompts.
        samples: of each.
        level: of the one-sided test.
        margin: the change that is tolerated.
        span: how far scores can lie apart.
    """
    if n < 2 or span <= 0:
        return span
    sum_of_quantiles = float(stdtrit(n - 1, 1 - level) + stdtrit(n - 1, POWER))
    c, m = sum_of_quantiles**2 / n, margin + _AGAINST * span / (n * math.sqrt(samples))
    # (1 + c/k - c) x^2 - (2 m + c span/k) x + m^2 - c variance = 0
    quadratic, linear, constant = 1 + c / samples - c, 2 * m + c * span / samples, m * m - c * variance
    if quadratic <= 0:
        return span
    return min(span, (linear + math.sqrt(max(linear**2 - 4 * quadratic * constant, 0.0))) / (2 * quadratic))
