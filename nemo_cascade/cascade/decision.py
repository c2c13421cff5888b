"""What a gate decided about a stage, and the comparisons that it rests on; kept as gate.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nemo_cascade.errors import RunFolderError
from nemo_cascade.storage.atomic import write_json

Outcome = Literal["promote", "hold", "rollback", "recover", "skip"]
LAST = "last"
"""A stage's model as it stood after the last step."""
Promise = Literal["improve", "hold", "none"]
Verdict = Literal["improved", "not improved", "held", "regressed", "up", "down", "unchanged"]


@dataclass(frozen=True, slots=True)
class GateRow:
    """One domain before and after.

    Attributes:
        domain: name.
        promise: what the stage promised for it.
        score: mean score after the stage.
        parent_score: mean score of the parent, on the same prompts.
        difference: score - parent_score.
        low: lower end of the difference's 95 % interval.
        high: upper end.
        p_greater: one-sided p-value against "no better".
        p_less: one-sided p-value against "no worse".
        n: prompts compared.
        dropped: prompts left out because one side has no score for them (verifier errors).
        margin: what the score may fall by; 0 where there was no promise to hold it.
        p: p-value that decides: against "fell by no more than the margin" (hold), "no better" (improve), "unchanged".
        level: what p was compared with: the domain's part of the cascade's alpha.
        detectable: the smallest true fall (improve: rise), spread over the prompts, that would have been found at this
            level with a probability of 90 %.
        verdict: improved | not improved (promised to improve), held | regressed (promised to hold),
            up | down | unchanged (no promise; up and down are significant).
        significant: whether the difference is significant in its direction, whatever was promised.
    """

    domain: str
    promise: Promise
    score: float
    parent_score: float
    difference: float
    low: float
    high: float
    p_greater: float
    p_less: float
    n: int
    dropped: int
    margin: float
    p: float
    level: float
    detectable: float
    verdict: Verdict
    significant: bool

    @property
    def broken(self) -> bool:
        """Whether the promise was broken."""
        return self.verdict in ("not improved", "regressed")


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another model of a stage whose last one broke a promise, and what became of it.

    Attributes:
        model: `step_000010`: a checkpoint; `merge_0.50`: so much of the stage, the rest the parent's; `last`.
        scores: domain -> mean score on the prompts that the parent has scores for, too.
        merit: mean score over the domains that the stage promised to improve; over all where it promised none.
        kept: whether it keeps every promise.
        reason: which it breaks.
    """

    model: str
    scores: Mapping[str, float]
    merit: float
    kept: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided, and why.

    Attributes:
        stage: name of the stage.
        outcome: promote: go on from here; hold: stop the cascade; rollback: go on from the parent; recover: go on from
            another model of the stage; skip: it wasn't trained, for a reward model that it needs was rolled back.
        reasons: one sentence each.
        rows: all domains, of the model that was chosen.
        alpha: the cascade's error rate.
        tolerance: allowed fall.
        model: which of the stage's models it is about: `last`, `step_000010`, `merge_0.50`.
        alternatives: what else was tried.
    """

    stage: str
    outcome: Outcome
    reasons: tuple[str, ...]
    rows: tuple[GateRow, ...]
    alpha: float
    tolerance: float
    model: str = LAST
    alternatives: tuple[Alternative, ...] = ()

    @property
    def goes_on(self) -> bool:
        """Whether the next stage starts from this one."""
        return self.outcome in ("promote", "recover")

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(self.reasons)

    def summary(self) -> dict[str, Any]:
        """Return what the ledger records: outcome, reason, each domain's difference, the model and what was tried."""
        differences = {row.domain: row.difference for row in self.rows}
        tried = {other.model: {**other.scores, "kept": other.kept} for other in self.alternatives}
        summary = {"outcome": self.outcome, "reason": self.reason, "differences": differences, "model": self.model}
        return {**summary, "tried": tried} if tried else summary

    def save(self, path: Path) -> None:
        """Write gate.json, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Decision:
        """Read gate.json.

        Raises:
            RunFolderError: the file is missing or isn't such a file.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            rows = tuple(GateRow(**row) for row in raw.pop("rows"))
            tried = tuple(Alternative(**other) for other in raw.pop("alternatives", ()))
            return cls(rows=rows, reasons=tuple(raw.pop("reasons")), alternatives=tried, **raw)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"can't read the gate's decision in {path}",
                value=repr(error),
                mend="restore the file, or fork the run before this stage: nemo-cascade fork",
            ) from error
