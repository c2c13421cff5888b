"""The gate: promises kept and broken, on the same prompts or not at all."""

import re
from dataclasses import replace

import pytest

from nemo_cascade.cascade.decision import Decision
from nemo_cascade.cascade.gate import decide, decide_reward_model
from nemo_cascade.cascade.levels import gate_level, holm_levels, stage_gate
from nemo_cascade.config.gate import GateOverride
from nemo_cascade.config.schema import EvaluationConfig
from nemo_cascade.config.stages.base import PromiseConfig
from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.preference import preference_scores
from nemo_cascade.evaluation.scores import Scores


def scores(prompts=100, **solved):
    """Return scores in which the first so many prompts of each domain are solved."""
    return Scores({d: {f"{d}/{i}": [float(i < n)] for i in range(prompts)} for d, n in solved.items()})


def gate(config, after, before, promise, on_regression="hold", **changes):
    stage = replace(
        config.stages["math_rl"], promise=promise, gate=GateOverride(on_regression=on_regression, **changes)
    )
    return decide(replace(config, stages={"math_rl": stage}), "math_rl", before, after)


IMPROVE = PromiseConfig(improve=["math"])
BEFORE = scores(math=40, code=50)


@pytest.mark.parametrize(
    ("math", "code", "outcome", "verdicts"),
    [
        (60, 50, "promote", ("improved", "held")),
        (60, 42, "promote", ("improved", "held")),  # a significant fall, but within the tolerance that the test sets
        (60, 38, "promote", ("improved", "held")),  # beyond the tolerance, but not shown to be
        (42, 50, "hold", ("not improved", "held")),  # better, but by chance as far as anyone can tell
        (20, 50, "hold", ("not improved", "held")),
        (60, 20, "hold", ("improved", "regressed")),
    ],
)
def test_promises_decide(config, math, code, outcome, verdicts):
    decision = gate(config, scores(math=math, code=code), BEFORE, IMPROVE, tolerance=0.1)
    assert decision.outcome == outcome
    assert tuple(row.verdict for row in decision.rows) == verdicts
    assert decision.rows[0].difference == pytest.approx((math - 40) / 100)
    assert ("every promise was kept" in decision.reason) == (outcome == "promote")


def test_a_fall_may_exceed_the_tolerance_by_chance(config):
    # Of 60 prompts 12 are lost and 9 won: a fall of 0.05 that chance explains well.
    before = Scores({"math": {f"m/{i}": [float(i < 30)] for i in range(60)}})
    after = Scores({"math": {f"m/{i}": [float(12 <= i < 39)] for i in range(60)}})
    decision = gate(config, after, before, PromiseConfig(), tolerance=0.0)
    assert decision.rows[0].difference == pytest.approx(-0.05)
    assert decision.rows[0].p_less > 0.01
    assert decision.outcome == "promote"


def test_holm_lets_a_finding_ease_the_next_and_stops_at_the_first_that_is_none():
    p = {"a": 0.001, "b": 0.02, "c": 0.9, "d": 0.011}
    levels = holm_levels(p, 0.04)
    assert levels == pytest.approx({"a": 0.04 / 3, "b": 0.02, "c": 0.02, "d": 0.04 / 3})
    assert {name for name in p if p[name] < levels[name]} == {"a", "d"}
    assert holm_levels({"a": 0.02, "b": 0.02}, 0.03) == {"a": 0.015, "b": 0.015}
    assert holm_levels({}, 0.05) == {}


def test_the_gates_of_a_cascade_share_its_error_rate_and_a_stage_that_may_choose_among_models_shares_its_own(config):
    # Three stages promise something; a stage without promises takes no part.
    assert gate_level(config, "math_rl") == pytest.approx(config.gate.alpha / 3)
    silent = replace(config.stages["code_rl"], promise=PromiseConfig(hold=[]))
    assert gate_level(replace(config, stages={**config.stages, "code_rl": silent}), "sft1") == config.gate.alpha / 2
    levels = {
        how: {row.domain: row.level for row in gate(config, scores(math=60, code=50), BEFORE, IMPROVE, **how_).rows}
        for how, how_ in {"hold": {}, "merge": {"on_regression": "merge", "merge_ratios": [0.3, 0.6]}}.items()
    }
    assert levels["hold"] == {"math": 0.05, "code": 0.05}
    assert levels["merge"] == {"math": pytest.approx(0.05 / 3), "code": 0.05}


def test_every_row_says_what_it_would_have_found(config):
    small, large = (
        gate(config, scores(n, math=n // 2, code=n // 2), scores(n, math=n // 2, code=n // 2), IMPROVE).rows
        for n in (50, 5000)
    )
    for row, at_least in (*zip(small, (0.1, 0.1), strict=True), *zip(large, (0.0, 0.02), strict=True)):
        assert at_least < row.detectable < 1
    assert all(b.detectable < a.detectable / 3 for a, b in zip(small, large, strict=True))


def test_the_tolerance_is_a_share_of_the_span_of_a_suites_scores(config):
    def spread(solved):
        return Scores({"math": {f"m/{i}": [1.0 if i < solved else -1.0] for i in range(1000)}})

    suites = {"math": replace(config.evaluation.suites["math"], score_span=2.0)}
    wide = replace(config, evaluation=EvaluationConfig(suites=suites))
    rows = [gate(c, spread(455), spread(480), PromiseConfig(), tolerance=0.02).rows[0] for c in (config, wide)]
    assert [(row.margin, row.verdict) for row in rows] == [(0.02, "regressed"), (0.04, "held")]


@pytest.mark.parametrize("outcome", ["hold", "rollback", "promote"])
def test_a_broken_promise_has_the_configured_outcome_and_reason(config, outcome):
    decision = gate(config, scores(math=60, code=10), BEFORE, IMPROVE, on_regression=outcome)
    assert decision.outcome == outcome
    assert re.fullmatch(
        r"code fell by more than 0\.02, significantly: 0\.500 -> 0\.100 \(-0\.400\), p \S+e-\d+ < 0\.05",
        decision.reason,
    )


def test_a_domain_without_promise_is_reported_and_breaks_nothing(config):
    decision = gate(config, scores(math=60, code=10), BEFORE, PromiseConfig(improve=["math"], hold=[]))
    assert decision.outcome == "promote"
    assert [row.verdict for row in decision.rows] == ["improved", "down"]


def test_scores_are_paired_by_prompt_whatever_their_order(config):
    after = scores(math=60, code=50)
    turned = Scores({d: dict(reversed(prompts.items())) for d, prompts in after.samples.items()})
    one, other = (gate(config, s, BEFORE, IMPROVE) for s in (after, turned))
    assert one.outcome == other.outcome
    for a, b in zip(one.rows, other.rows, strict=True):
        assert (a.difference, a.p_greater, a.low) == pytest.approx((b.difference, b.p_greater, b.low))


def test_prompts_without_a_score_on_one_side_are_left_out_and_counted(config):
    after = scores(math=60, code=50)
    holes = {p: [None] if i in (0, 99) else s for i, (p, s) in enumerate(after.samples["math"].items())}
    row = gate(config, Scores({**after.samples, "math": holes}), BEFORE, IMPROVE).rows[0]
    assert (row.n, row.dropped) == (98, 2)
    assert row.score == pytest.approx(59 / 98)
    nothing = Scores({**after.samples, "math": {p: [None] for p in holes}})
    with pytest.raises(RunFolderError, match="no prompt of the domain math"):
        gate(config, nothing, BEFORE, IMPROVE)


def test_different_prompts_or_domains_are_refused(config):
    with pytest.raises(RunFolderError, match=r"different prompts of the domain math.*1 prompts in one only.*math/100"):
        gate(config, scores(prompts=101, math=60, code=50), BEFORE, IMPROVE)
    with pytest.raises(RunFolderError, match="different domains"):
        gate(config, scores(math=60), BEFORE, IMPROVE)
    with pytest.raises(RunFolderError, match="weren't scored"):
        gate(config, BEFORE, BEFORE, PromiseConfig(improve=["swe"]))


def test_without_parent_scores_the_stage_is_promoted_and_it_is_said(config):
    decision = gate(config, BEFORE, None, IMPROVE)
    assert decision.outcome == "promote"
    assert "nothing was compared" in decision.reason


def test_a_decision_reads_back_as_it_was_written(config, tmp_path):
    decision = gate(config, scores(math=60, code=10), BEFORE, IMPROVE)
    decision.save(tmp_path / "gate.json")
    assert Decision.load(tmp_path / "gate.json") == decision
    (tmp_path / "gate.json").write_text('{"stage": "x"}')
    with pytest.raises(RunFolderError, match=r"gate\.json"):
        Decision.load(tmp_path / "gate.json")


def test_a_stage_changes_the_gate_where_it_says_so_and_nowhere_else(config):
    stage = replace(config.stages["math_rl"], gate=GateOverride(tolerance=0.0, merge_ratios=[]))
    found = stage_gate(replace(config, stages={"math_rl": stage}), "math_rl")
    assert found == replace(config.gate, tolerance=0.0, merge_ratios=[])
    assert stage_gate(config, "math_rl") == config.gate


@pytest.mark.parametrize(
    ("right", "on_regression", "outcome"),
    [
        (70, "hold", "promote"),
        (63, "hold", "promote"),  # below the bar, but not shown to be
        (50, "hold", "hold"),
        (50, "rollback", "rollback"),
        (50, "recover", "rollback"),
        (50, "promote", "promote"),
    ],
)
def test_a_reward_model_is_judged_by_its_hold_out_accuracy(with_reward_model, right, on_regression, outcome):
    stage = replace(with_reward_model.stages["rm"], gate=GateOverride(on_regression=on_regression))
    config = replace(with_reward_model, stages={**with_reward_model.stages, "rm": stage})
    decision = decide_reward_model(
        config, "rm", preference_scores([1.0] * right + [-1.0] * (100 - right)), stage.min_accuracy
    )
    assert decision.outcome == outcome
    assert f"{right / 100:.3f}" in decision.reason
    assert "0.7" in decision.reason
