"""The decision after a stage: do its scores keep what the stage promised, compared with its parent's?

Prompts are the same before and after, so differences are paired by prompt. Per domain, at level alpha, one-sided:

    improve  kept if the score rose significantly (p_greater < alpha)
    hold     broken if the score fell by more than the tolerance and significantly (p_less < alpha)

Gates are ours: arXiv 2512.13607 reports all scores after each stage (tables 2, 4-8) and has no rule for them.

A broken promise has the outcome that `on_regression` names; otherwise the stage is promoted. Where that is to look for
another model of the stage (cascade/recover.py), the same comparison decides about each of them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from nemo_cascade.config.schema import GateConfig, RunConfig
from nemo_cascade.config.stage import PromiseConfig, RewardModelStage
from nemo_cascade.errors import ConfigError, RunFolderError
from nemo_cascade.evaluation.preference import PreferenceScores
from nemo_cascade.evaluation.scores import DomainScores, Scores
from nemo_cascade.evaluation.statistics import paired_bootstrap
from nemo_cascade.telemetry.jsonl import write_atomically

Outcome = Literal["promote", "hold", "rollback", "recover"]
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
        verdict: improved | not improved (promised to improve), held | regressed (promised to hold),
            up | down | unchanged (no promise; up and down are significant).
        significant: whether the difference is significant in its direction.
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
            another model of the stage.
        reasons: one sentence each.
        rows: all domains, of the model that was chosen.
        alpha: significance level.
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
        write_atomically(path, (json.dumps(asdict(self), indent=1, allow_nan=False) + "\n").encode())

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
            raise RunFolderError(f"can't read the gate's decision in {path}", value=repr(error)) from error


def stage_gate(config: RunConfig, stage: str) -> GateConfig:
    """Return the run's gate with the stage's own changes.

    Raises:
        ConfigError: the stage changes fields that don't exist, or to values that aren't allowed; all at once.
    """
    changes = config.stages[stage].gate
    known = [entry.name for entry in fields(GateConfig)]
    problems = []
    for key in changes:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
            problems.append(f"stages.{stage}.gate.{key}: no such field; {hint}")
    try:
        gate = GateConfig(**{**asdict(config.gate), **{key: changes[key] for key in changes if key in known}})
    except ValidationError as error:
        for entry in error.errors():
            where = ".".join(str(part) for part in entry["loc"])
            problems.append(f"stages.{stage}.gate.{where}: {entry['msg']}; got: {entry['input']}")
    if problems:
        raise ConfigError(problems)
    return gate


def decide(config: RunConfig, stage: str, parent_scores: Scores | None, scores: Scores, model: str = LAST) -> Decision:
    """Compare a stage's scores with its parent's and decide; where another model is to be looked for: to roll back.

    Args:
        config: the run's configuration: levels, promises, outcomes, seed of the bootstrap.
        stage: name of the stage.
        parent_scores: the parent's scores on the same prompts; None where it wasn't scored: then promoted, and said.
        scores: the stage's scores.
        model: which of the stage's models they are of.

    Raises:
        RunFolderError: the two were scored on different domains or prompts, or a promised domain has no scores.
    """
    gate, promise = stage_gate(config, stage), config.stages[stage].promise
    if parent_scores is None:
        reason = "the parent has no scores: nothing was compared, no promise was checked"
        return Decision(stage, "promote", (reason,), (), gate.alpha, gate.tolerance, model)
    _check_domains(stage, scores, parent_scores, promise)
    rows = tuple(
        _compare(name, scores.domain(name), parent_scores.domain(name), promise, gate, config.seed)
        for name in scores.samples
    )
    broken = [row for row in rows if row.broken]
    outcome: Outcome = "promote"
    if broken and gate.on_regression != "promote":
        outcome = "hold" if gate.on_regression == "hold" else "rollback"
    reasons = tuple(_reason(row, gate) for row in broken) or ("every promise was kept",)
    return Decision(stage, outcome, reasons, rows, gate.alpha, gate.tolerance, model)


def recover(config: RunConfig, last: Decision, others: Sequence[Decision]) -> Decision:
    """Decide for the best of a stage's other models that keeps every promise, or to roll back where none does.

    Args:
        config: the run's configuration.
        last: the decision that its own model breaks a promise.
        others: the comparisons of the other models with the same parent; of equally good ones the first is taken.
    """
    tried = tuple(_alternative(config, other) for other in others)
    kept = [(entry, other) for entry, other in zip(tried, others, strict=True) if entry.kept]
    if not kept:
        said = f"none of {len(tried)} other models keeps every promise" if tried else "there is no other model"
        return replace(last, outcome="rollback", reasons=(*last.reasons, said), alternatives=tried)
    best, chosen = max(kept, key=lambda pair: pair[0].merit)
    scores = ", ".join(f"{name} {score:.3f}" for name, score in best.scores.items())
    reasons = (*last.reasons, f"{best.model} keeps every promise: {scores}")
    return replace(chosen, outcome="recover", reasons=reasons, alternatives=tried)


def merit(config: RunConfig, stage: str, scores: Mapping[str, float]) -> float:
    """Return the mean score over the domains that a stage promises to improve; over all where it promises none."""
    promised = [domain for domain in config.stages[stage].promise.improve if domain in scores] or list(scores)
    return sum(scores[domain] for domain in promised) / len(promised)


def _alternative(config: RunConfig, decision: Decision) -> Alternative:
    scores = {row.domain: row.score for row in decision.rows}
    kept = not any(row.broken for row in decision.rows)
    return Alternative(decision.model, scores, merit(config, decision.stage, scores), kept, decision.reason)


def decide_reward_model(config: RunConfig, stage: str, scores: PreferenceScores) -> Decision:
    """Decide whether a reward model may be used: by its own hold-out accuracy, for the policy hasn't changed.

    Below `min_accuracy` the cascade is held, unless `on_regression` says promote: there is nothing to roll back to.
    """
    gate, rules = stage_gate(config, stage), config.stages[stage]
    assert isinstance(rules, RewardModelStage), "only reward models are judged so"
    accuracy = f"{scores.accuracy:.3f} +- {scores.stderr:.3f} on {scores.n} hold-out pairs"
    good = scores.accuracy >= rules.min_accuracy
    reason = f"accuracy {accuracy} {'reaches' if good else 'is below'} {rules.min_accuracy:g}"
    outcome: Outcome = "promote" if good or gate.on_regression == "promote" else "hold"
    return Decision(stage, outcome, (reason,), (), gate.alpha, gate.tolerance)


def _compare(
    name: str, after: DomainScores, before: DomainScores, promise: PromiseConfig, config: GateConfig, seed: int
) -> GateRow:
    if set(after.prompt_ids) != set(before.prompt_ids):
        different = sorted(set(after.prompt_ids) ^ set(before.prompt_ids))
        raise RunFolderError(
            f"the stage and its parent were scored on different prompts of the domain {name}",
            value=f"{len(different)} prompts in one only, e.g. {different[:3]}",
            mend="evaluate both with the same suites",
        )
    row_of = {prompt: row for row, prompt in enumerate(before.prompt_ids)}
    after_n = after.score_n
    before_n = before.score_n[[row_of[prompt] for prompt in after.prompt_ids]]
    both_n = ~np.isnan(after_n) & ~np.isnan(before_n)
    if not both_n.any():
        raise RunFolderError(
            f"no prompt of the domain {name} has a score both before and after the stage",
            value=f"{after.errors} and {before.errors} samples with verifier errors",
            mend="look at the verifier's errors",
        )
    after_n, before_n = after_n[both_n], before_n[both_n]
    paired = paired_bootstrap(after_n, before_n, config.bootstrap_samples, seed)
    promised = _promised(name, promise)
    up, down = paired.p_greater < config.alpha, paired.p_less < config.alpha
    verdict: Verdict
    if promised == "improve":
        verdict = "improved" if up else "not improved"
    elif promised == "hold":
        verdict = "regressed" if down and paired.difference < -config.tolerance else "held"
    else:
        verdict = "up" if up else "down" if down else "unchanged"
    return GateRow(
        domain=name,
        promise=promised,
        score=float(after_n.mean()),
        parent_score=float(before_n.mean()),
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        p_greater=paired.p_greater,
        p_less=paired.p_less,
        n=paired.n,
        dropped=int((~both_n).sum()),
        verdict=verdict,
        significant=up or down,
    )


def _promised(domain: str, promise: PromiseConfig) -> Promise:
    if domain in promise.improve:
        return "improve"
    return "hold" if domain in promise.hold or "*" in promise.hold else "none"


def _reason(row: GateRow, gate: GateConfig) -> str:
    change = f"{row.parent_score:.3f} -> {row.score:.3f} ({row.difference:+.3f})"
    if row.verdict == "not improved":
        return f"{row.domain} didn't rise significantly: {change}, p {row.p_greater:.2g} >= {gate.alpha:g}"
    limit = f"by more than {gate.tolerance:g}"
    return f"{row.domain} fell {limit}, significantly: {change}, p {row.p_less:.2g} < {gate.alpha:g}"


def _check_domains(stage: str, scores: Scores, parent_scores: Scores, promise: PromiseConfig) -> None:
    if set(scores.samples) != set(parent_scores.samples):
        raise RunFolderError(
            f"the stage {stage} and its parent were scored on different domains",
            value=f"{sorted(scores.samples)} and {sorted(parent_scores.samples)}",
            mend="evaluate both with the same suites",
        )
    promised: Sequence[str] = [*promise.improve, *(domain for domain in promise.hold if domain != "*")]
    if missing := sorted(set(promised) - set(scores.samples)):
        raise RunFolderError(
            f"the stage {stage} promises something about domains that weren't scored",
            value=missing,
            limit=sorted(scores.samples),
        )
