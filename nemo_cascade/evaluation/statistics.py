"""Statistics of one model's scores: standard error, pass@k. n prompts, k samples of each."""

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


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
