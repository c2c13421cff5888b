"""A tiny model learns to ask a tool before it answers: two turns, through Megatron, vLLM and an environment."""

import re

import pytest
from scipy.stats import binomtest

from nemo_cascade.evaluation.scores import Scores
from tests.e2e.cascade_process import completed
from tests.support.paired_scores import above, lines_of, scores_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize(("seed", "turns"), [(0, "lock_step"), (1, "lock_step"), (2, "lock_step"), (0, "streaming")])
def test_from_nearly_none_to_more_than_four_in_five(tmp_path, seed, turns):
    overrides = ["cascade=nano_tools", f"seed={seed}", f"environments.turns={turns}"]
    run = completed(tmp_path, "nano_tools", overrides, 800)
    before, after = (scores_of(run, stage, "tools") for stage in ("sft", "tool_rl"))
    assert above(after, before)
    told = before.mean(), after.mean()
    assert binomtest(int(before.sum()), before.size, 0.15, "less").pvalue < 1e-3, told
    assert binomtest(int(after.sum()), after.size, 0.8, "greater").pvalue < 1e-3, told
    assert not any(line["verdict_errors"] for line in lines_of(run, "tool_rl"))
    (file,) = run.glob("stages/*-tool_rl/scores.json")
    assert Scores.load(file).domain("tools").errors == 0
    page = re.sub(r"\s+", " ", (run / "report.html").read_text())
    assert "turn 2 of 2" in page
    assert "&lt;tool_response&gt;" in page
