"""The decision after a stage: do its scores keep what the stage promised, compared with its parent's?

Prompts are the same before and after, so differences are paired by prompt. Per domain, one-sided:

    improve  kept if the score is shown to have risen            (superiority: H0 rise <= 0)
    hold     broken if it is shown to have fallen by more than   (non-inferiority: H0 fall <= tolerance)
             the tolerance

at levels that hold `gate.alpha` for the whole cascade (levels.py), by the test of evaluation/paired.py. So a promise to
hold is broken only by evidence that it was, and a promise to improve kept only by evidence that it was: a stage that
changes nothing holds everything and improves nothing. Its unkept promise to improve is no false alarm: what the stage
was there for can't be shown, and the cascade goes on as `on_regression` says. How likely a true rise goes unseen is the
other error; every row says what it would have found with a probability of 90 %.

Gates are ours: arXiv 2512.13607 reports all scores after each stage (tables 2, 4-8) and has no rule for them.

A broken promise has the outcome that `on_regression` names; otherwise the stage is promoted. Where that is to look for
another model of the stage (cascade/candidates.py), the same comparison decides about each of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import bdtr

from nemo_cascade.cascade.decision import LAST, Alternative, Decision, GateRow, Outcome, Promise, Verdict
from nemo_cascade.cascade.levels import gate_level, holm_levels, models_to_choose_from, stage_gate
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import PromiseConfig
from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.paired import PairedDifference, compare_paired, detectable_change, p_below
from nemo_cascade.evaluation.preference import PreferenceScores
from nemo_cascade.evaluation.scores import DomainScores, Scores, merit
from nemo_cascade.evaluation.statistics import Float64


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One domain's scores on the prompts that both sides have scores for, and what is asked of them.

    Attributes:
        after_n: [n] scores after the stage.
        before_n: [n] the parent's.
        paired: their difference.
        span: how far scores can lie apart.
        samples: scored samples of a prompt, mean.
        dropped: prompts left out.
        promise: what the stage promised.
        margin: what the score may fall by, in the score's own units.
        p: p-value of the question that the promise asks.
    """

    after_n: Float64
    before_n: Float64
    paired: PairedDifference
    span: float
    samples: float
    dropped: int
    promise: Promise
    margin: float
    p: float


def decide(config: RunConfig, stage: str, parent_scores: Scores | None, scores: Scores, model: str = LAST) -> Decision:
    """Compare a stage's scores with its parent's and decide; where another model is to be looked for: to roll back.

    Args:
        config: the run's configuration: levels, promises, outcomes.
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
    _check_domains(config, stage, scores, parent_scores)
    compared = {}
    for name in scores.samples:
        suite = config.evaluation.suites.get(name)
        span = suite.score_span if suite else 1.0
        promised = _promised(name, promise)
        margin = gate.tolerance * span if promised == "hold" else 0.0
        compared[name] = _compare(name, scores.domain(name), parent_scores.domain(name), promised, margin, span)
    rows = _rows(compared, gate_level(config, stage), models_to_choose_from(config, stage))
    broken = [row for row in rows if row.broken]
    outcome: Outcome = "promote"
    if broken and gate.on_regression != "promote":
        outcome = "hold" if gate.on_regression == "hold" else "rollback"
    reasons = tuple(_reason(row) for row in broken) or ("every promise was kept",)
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


def keeps_promises(decision: Decision) -> bool:
    """Tell whether the model that was compared keeps every promise."""
    return not any(row.broken for row in decision.rows)


def _alternative(config: RunConfig, decision: Decision) -> Alternative:
    scores = {row.domain: row.score for row in decision.rows}
    kept = keeps_promises(decision)
    return Alternative(
        decision.model, scores, merit(scores, config.stages[decision.stage].promise.improve), kept, decision.reason
    )


def decide_reward_model(config: RunConfig, stage: str, scores: PreferenceScores, min_accuracy: float) -> Decision:
    """Decide whether a reward model may be used: by its own hold-out accuracy, for the policy hasn't changed.

    It breaks its promise where its accuracy is shown to be below `min_accuracy`: an exact binomial test at the gate's
    level, a tie counting as right. Then it is held or, until another of its checkpoints is found good, rolled back.
    """
    gate, level = stage_gate(config, stage), gate_level(config, stage)
    p = float(bdtr(math.ceil(scores.accuracy * scores.n - 1e-9), scores.n, min_accuracy))
    good = scores.accuracy >= min_accuracy
    finding = "reaches" if good else "isn't shown to be below" if p >= level else "is below"
    accuracy = f"{scores.accuracy:.3f} +- {scores.stderr:.3f} on {scores.n} hold-out pairs"
    reason = f"accuracy {accuracy} {finding} {min_accuracy:g}" + f" (p {p:.2g}, level {level:.2g})" * (not good)
    outcome: Outcome = "promote"
    if not good and p < level and gate.on_regression != "promote":
        outcome = "hold" if gate.on_regression == "hold" else "rollback"
    return Decision(stage, outcome, (reason,), (), gate.alpha, gate.tolerance)


def _compare(
    name: str, after: DomainScores, before: DomainScores, promise: Promise, margin: float, span: float
) -> _Comparison:
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
    samples = float((~np.isnan(after.sample_nk[both_n])).sum(axis=1).mean())
    after_n, before_n = after_n[both_n], before_n[both_n]
    paired = compare_paired(after_n, before_n)
    p = {
        "improve": paired.p_greater,
        "hold": float(p_below(after_n - before_n, -margin)),
        "none": min(1.0, 2 * min(paired.p_greater, paired.p_less)),
    }[promise]
    return _Comparison(after_n, before_n, paired, span, samples, int((~both_n).sum()), promise, margin, p)


def _rows(compared: Mapping[str, _Comparison], level: float, models: int) -> tuple[GateRow, ...]:
    """Judge all domains of a gate at a level that they share; `models` could be chosen for what they improve."""
    families: dict[Promise, float] = {"improve": level / models, "hold": level, "none": level}
    levels: dict[str, float] = {}
    for promise, shared in families.items():
        levels |= holm_levels({name: c.p for name, c in compared.items() if c.promise == promise}, shared)
    verdicts = {name: _verdict(c, c.p < levels[name]) for name, c in compared.items()}
    return tuple(
        GateRow(
            domain=name,
            promise=c.promise,
            score=float(c.after_n.mean()),
            parent_score=float(c.before_n.mean()),
            difference=c.paired.difference,
            low=c.paired.low,
            high=c.paired.high,
            p_greater=c.paired.p_greater,
            p_less=c.paired.p_less,
            n=c.paired.n,
            dropped=c.dropped,
            margin=c.margin,
            p=c.p,
            level=levels[name],
            detectable=detectable_change(
                c.paired.stderr**2 * c.paired.n,
                c.paired.n,
                c.samples,
                levels[name] / (2 if c.promise == "none" else 1),
                c.margin,
                c.span,
            ),
            verdict=verdicts[name],
            significant=2 * min(c.paired.p_greater, c.paired.p_less) < level / len(compared),
        )
        for name, c in compared.items()
    )


def _verdict(compared: _Comparison, found: bool) -> Verdict:
    if compared.promise == "improve":
        return "improved" if found else "not improved"
    if compared.promise == "hold":
        return "regressed" if found else "held"
    if not found:
        return "unchanged"
    return "up" if compared.paired.difference > 0 else "down"


def _promised(domain: str, promise: PromiseConfig) -> Promise:
    if domain in promise.improve:
        return "improve"
    return "hold" if domain in promise.hold or "*" in promise.hold else "none"


def _reason(row: GateRow) -> str:
    change = f"{row.parent_score:.3f} -> {row.score:.3f} ({row.difference:+.3f})"
    if row.verdict == "not improved":
        seen = f"a rise of {row.detectable:.3f} would have been found (90 %)"
        return f"{row.domain} didn't rise significantly: {change}, p {row.p:.2g} >= {row.level:.2g}; {seen}"
    return f"{row.domain} fell by more than {row.margin:g}, significantly: {change}, p {row.p:.2g} < {row.level:.2g}"


def _check_domains(config: RunConfig, stage: str, scores: Scores, parent_scores: Scores) -> None:
    """Refuse scores that can't be compared; a domain whose reward model was rolled back has none, and no promise."""
    promise, suites, models = config.stages[stage].promise, config.evaluation.suites, config.stages
    if set(scores.samples) != set(parent_scores.samples):
        raise RunFolderError(
            f"the stage {stage} and its parent were scored on different domains",
            value=f"{sorted(scores.samples)} and {sorted(parent_scores.samples)}",
            mend="evaluate both with the same suites",
        )
    promised: Sequence[str] = [*promise.improve, *(domain for domain in promise.hold if domain != "*")]
    waiting = {domain for domain, suite in suites.items() if suite.reward_model in models}
    if missing := sorted(set(promised) - set(scores.samples) - waiting):
        raise RunFolderError(
            f"the stage {stage} promises something about domains that weren't scored",
            value=missing,
            limit=sorted(scores.samples),
            mend="name suites that are measured after the stage, under evaluation.suites",
        )
