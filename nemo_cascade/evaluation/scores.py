"""Scores of one model on all suites: per domain, per prompt, per sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.statistics import Float64, pass_at_k, standard_error
from nemo_cascade.storage.atomic import write_json


@dataclass(frozen=True, slots=True)
class DomainScores:
    """One domain's scores. n prompts, k samples each.

    Attributes:
        prompt_ids: [n], unique.
        sample_nk: [n, k] score of each sample; NaN where the verifier gave an error, which is never a score.
    """

    prompt_ids: tuple[str, ...]
    sample_nk: Float64

    @property
    def errors(self) -> int:
        """Samples without a score."""
        return int(np.isnan(self.sample_nk).sum())

    @property
    def score_n(self) -> Float64:
        """Mean over each prompt's scored samples, [n]; NaN where there is none."""
        scored_nk = ~np.isnan(self.sample_nk)
        count_n = scored_nk.sum(axis=1)
        total_n = np.where(scored_nk, self.sample_nk, 0.0).sum(axis=1)
        return np.where(count_n > 0, total_n / np.maximum(count_n, 1), np.nan)

    def summary(self) -> dict[str, Any]:
        """Return score (mean over prompts: avg@k), n (prompts with a score), stderr (None for n < 2), k and pass@k.

        pass@k is None for k = 1, where it is the score, and for scores that aren't all 0 or 1.
        """
        score_n = self.score_n
        scored_n = score_n[~np.isnan(score_n)]
        score = float(scored_n.mean()) if scored_n.size else None
        k = self.sample_nk.shape[1]
        graded = bool(np.isin(self.sample_nk, (0.0, 1.0), invert=True)[~np.isnan(self.sample_nk)].any())
        passed = self.pass_at(k) if k > 1 and not graded else None
        return {
            "score": score,
            "n": int(scored_n.size),
            "stderr": standard_error(scored_n),
            "samples": k,
            "pass_at_k": passed,
        }

    def pass_at(self, k: int) -> float | None:
        """Return pass@k over prompts with at least k scored samples, None without any; a sample passes with score 1."""
        drawn_n = (~np.isnan(self.sample_nk)).sum(axis=1)
        enough_n = drawn_n >= k
        if not enough_n.any():
            return None
        passed_n = (self.sample_nk >= 1.0).sum(axis=1)
        return float(pass_at_k(passed_n[enough_n], drawn_n[enough_n], k).mean())


@dataclass(frozen=True, slots=True)
class Scores:
    """One model's scores on all domains; made with a score that isn't finite, or ragged samples, it is refused.

    Attributes:
        samples: domain -> prompt id -> score of each sample, None where the verifier gave an error. Every prompt of a
            domain has as many samples.
        details: domain -> further measured numbers: `response_tokens_mean`, `truncation_rate`, and `mode_obeyed`, the
            share of the samples that have the form of the suite's mode (`rewards.guards.obeys_mode`). Of a suite that
            picks one of a prompt's samples, what all of them have and what the best of each has
            (`unpicked_score_mean`, `unpicked_score_best`), and the different reproduction tests of a prompt
            (`reproduction_tests_mean`).
    """

    samples: Mapping[str, Mapping[str, Sequence[float | None]]]
    details: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, prompts in self.samples.items():
            if len({len(row) for row in prompts.values()}) > 1:
                raise RunFolderError(f"the prompts of the domain {name} have different numbers of samples")
            for prompt, row in prompts.items():
                if not all(x is None or math.isfinite(x) for x in row):
                    raise RunFolderError(
                        f"the prompt {prompt} of the domain {name} has a score that isn't finite",
                        value=list(row),
                        mend="give None for a verifier error",
                    )

    def domain(self, name: str) -> DomainScores:
        """Return one domain's scores as arrays."""
        prompts = self.samples[name]
        rows = [list(row) for row in prompts.values()]
        return DomainScores(tuple(prompts), np.array(rows, dtype=np.float64).reshape(len(rows), -1))

    def joined(self, other: Scores) -> Scores:
        """Return these scores and another's, of further domains."""
        return Scores({**self.samples, **other.samples}, {**self.details, **other.details})

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return {domain: {score, n, stderr, samples, pass_at_k, mode_obeyed}}; None where it wasn't measured."""
        return {
            name: {**self.domain(name).summary(), "mode_obeyed": self.details.get(name, {}).get("mode_obeyed")}
            for name in self.samples
        }

    def save(self, path: Path) -> None:
        """Write as JSON, atomically; floats read back to the same bits."""
        content = {"summary": self.summary(), "samples": self.samples, "details": self.details}
        write_json(path, content, indent=None)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            RunFolderError: the file is missing or isn't such a file.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            scores = cls(raw["samples"], raw["details"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"can't read the scores in {path}",
                value=repr(error),
                mend="restore the file, or delete it and run the stage again",
            ) from error
        return scores


def merit(scores: Mapping[str, float], promised: Sequence[str]) -> float:
    """Return the mean score over the domains that are promised to improve; over all where none of them was scored."""
    domains = [domain for domain in promised if domain in scores] or list(scores)
    return sum(scores[domain] for domain in domains) / len(domains)
