"""What a run's scores say of its stages, by paired tests: no threshold that was picked by looking at one run."""

import json
from pathlib import Path

import numpy as np

from nemo_cascade.evaluation.paired import compare_paired, p_below
from nemo_cascade.evaluation.scores import Scores

ALPHA = 1e-3


def scores_of(run: Path, stage: str, domain: str) -> np.ndarray:
    """Return a stage's score of each prompt of a domain."""
    (file,) = run.glob(f"stages/*-{stage}/scores.json")
    return Scores.load(file).domain(domain).score_n


def mean(run: Path, stage: str, domain: str) -> float:
    """Return a stage's score of a domain."""
    return float(scores_of(run, stage, domain).mean())


def above(after: np.ndarray, before: np.ndarray) -> bool:
    """Tell whether the first scores are higher than the second on the same prompts, significantly."""
    return compare_paired(after, before).p_greater < ALPHA


def not_below(after: np.ndarray, before: np.ndarray, tolerance: float) -> bool:
    """Tell whether it can't be said that the first scores are lower than the second by more than a tolerance."""
    return bool(p_below(after - before, -tolerance) >= ALPHA)


def lines_of(run: Path, stage: str) -> list[dict]:
    """Return a stage's log lines."""
    (file,) = run.glob(f"stages/*-{stage}/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]
