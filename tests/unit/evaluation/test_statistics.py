"""Statistics against definitions and brute force."""

from itertools import combinations

import numpy as np
import pytest

from nemo_cascade.evaluation.statistics import pass_at_k, standard_error


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
