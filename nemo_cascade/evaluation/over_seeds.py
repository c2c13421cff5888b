"""A difference between two runs, over seeds and prompts. s seeds, n prompts.

Every seed is a pair of runs that are compared on the same prompts: d_si, with mean D_s. What holds over seeds has to
stand out from their spread, however sure each pair is of itself.

Seeds with prompts of their own (procedural data): the D_s are independent, and their spread holds that of the prompts.

    mean = mean_s D_s      se^2 = var_s(D_s) / s                                       Student's t, s - 1

Seeds on the same prompts: what is peculiar to these is in all D_s alike, so the spread over prompts is added. The
variance is that of a crossed random-effects model d_si = m + seed_s + prompt_i + rest_si, with the rest counted on both
sides (conservative, as the bootstrap of both is: Owen, The pigeonhole bootstrap, Ann. Appl. Stat. 1, 2007).

    se^2 = var_s(D_s) / s + var_i(mean_s d_si) / n      Student's t, Satterthwaite's degrees of freedom
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from nemo_cascade.evaluation.paired import CONFIDENCE
from nemo_cascade.evaluation.statistics import Float64


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A difference over seeds.

    Attributes:
        difference: mean over seeds.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided p-value of "no difference".
        by_seed: each seed's difference.
        n: prompts of a seed, mean.
    """

    difference: float
    low: float
    high: float
    p: float
    by_seed: tuple[float, ...]
    n: float


def over_seeds(differences: Sequence[Mapping[str, float]]) -> OverSeeds:
    """Estimate a difference from two seeds or more.

    Args:
        differences: for each seed, prompt id -> paired difference.
    """
    assert len(differences) > 1, "one seed has no spread"
    assert all(differences), "every seed has a prompt"
    mean_s = np.array([np.mean(list(by_prompt.values())) for by_prompt in differences])
    seeds = mean_s.size
    parts = [(float(mean_s.var(ddof=1)) / seeds, seeds - 1)]
    same = all(by_prompt.keys() == differences[0].keys() for by_prompt in differences)
    if same and len(differences[0]) > 1:
        value_sn = np.array([[by_prompt[prompt] for prompt in differences[0]] for by_prompt in differences])
        parts.append(_variance_of_mean(value_sn.mean(axis=0)))
    variance = sum(part for part, _ in parts)
    mean, prompts = float(mean_s.mean()), float(np.mean([len(by_prompt) for by_prompt in differences]))
    by_seed = tuple(float(value) for value in mean_s)
    if variance == 0:
        return OverSeeds(mean, mean, mean, 1.0 if mean == 0 else 0.0, by_seed, prompts)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    se = math.sqrt(variance)
    half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * se
    p = 2 * float(stdtr(freedom, -abs(mean) / se))
    return OverSeeds(mean, mean - half, mean + half, p, by_seed, prompts)


def _variance_of_mean(value_n: Float64) -> tuple[float, int]:
    return float(value_n.var(ddof=1)) / value_n.size, value_n.size - 1
