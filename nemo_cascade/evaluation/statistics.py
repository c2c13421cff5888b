"""Statistics of evaluation: paired bootstrap, standard errors, pass@k. n prompts, k samples of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_CONFIDENCE = 0.95
# Bounds the memory of resampling: draws are made in chunks of about this many counts (8 bytes each).
_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much better `a` is than `b` on the same prompts.

    Attributes:
        difference: mean of a - b over prompts.
        low: lower end of the 95 % bootstrap interval of the difference.
        high: upper end.
        p_greater: one-sided p-value of "a is no better than b"; small means better.
        p_less: one-sided p-value of "a is no worse than b"; small means worse.
        n: prompts compared.
    """

    difference: float
    low: float
    high: float
    p_greater: float
    p_less: float
    n: int


def paired_bootstrap(a_n: Float64, b_n: Float64, samples: int, seed: int) -> PairedDifference:
    """Compare two models' scores on the same prompts by resampling prompts.

    p_greater = (1 + resamples with mean difference <= 0) / (1 + resamples), p_less likewise. Where m prompts differ, no
    p-value is reported below 2^-m, the chance that m fair coins fall alike: with few prompts the bootstrap claims more
    certainty than the data can hold (its own floor is about e^-m).

    Equal differences are interchangeable, so counts of the distinct ones are drawn (multinomial) and not indices: the
    same distribution, without a [samples, n] matrix for 0/1 scores.

    Args:
        a_n: scores of one model, samples already averaged per prompt.
        b_n: scores of the other, in the same prompt order.
        samples: resamples.
        seed: same seed, same answer.
    """
    assert a_n.shape == b_n.shape, "one score per prompt on both sides"
    assert a_n.ndim == 1, "one score per prompt on both sides"
    assert a_n.size > 0, "nothing to compare"
    difference_n = np.asarray(a_n, np.float64) - np.asarray(b_n, np.float64)
    n = difference_n.size
    value_u, count_u = np.unique(difference_n, return_counts=True)
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, samples, chunk := max(1, _CHUNK // value_u.size)):
        drawn = generator.multinomial(n, count_u / n, size=min(chunk, samples - start))
        means.append(drawn @ value_u / n)
    mean_s = np.concatenate(means)
    # A resample whose differences cancel must count as 0 although its float sum may not be.
    mean_s[np.abs(mean_s) < 1e-12 * max(1.0, float(np.abs(value_u).max()))] = 0.0
    floor = 2.0 ** -int(np.count_nonzero(difference_n))
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(mean_s, [tail, 1 - tail])
    return PairedDifference(
        difference=float(difference_n.mean()),
        low=float(low),
        high=float(high),
        p_greater=max(float((1 + np.count_nonzero(mean_s <= 0)) / (1 + samples)), floor),
        p_less=max(float((1 + np.count_nonzero(mean_s >= 0)) / (1 + samples)), floor),
        n=n,
    )


def standard_error(score_n: Float64) -> float | None:
    """Return the standard error of the mean over prompts; None for fewer than two prompts."""
    if score_n.size < 2:
        return None
    return float(score_n.std(ddof=1) / np.sqrt(score_n.size))


def pass_at_k(correct_n: NDArray[np.integer], drawn_n: NDArray[np.integer], k: int) -> Float64:
    """Return the unbiased estimate of pass@k per prompt, 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374, eq. 1).

    Args:
        correct_n: correct samples of each prompt.
        drawn_n: samples drawn of each prompt, at least k.
        k: samples of which one must be correct.
    """
    correct = np.asarray(correct_n, np.int64)
    drawn = np.asarray(drawn_n, np.int64)
    assert k >= 1, "k counts from 1"
    assert bool((drawn >= k).all()), "pass@k needs at least k samples of each prompt"
    assert bool((correct <= drawn).all()), "more correct samples than drawn"
    # C(n - c, k) / C(n, k) = prod_{j<k} (n - c - j) / (n - j); a factor is 0 as soon as n - c < k.
    j_k = np.arange(k)
    factor_nk = np.clip((drawn - correct)[:, None] - j_k, 0, None) / (drawn[:, None] - j_k)
    return np.asarray(1.0 - factor_nk.prod(axis=1), np.float64)
