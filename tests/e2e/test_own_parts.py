"""An environment of a user's own, of several turns, on the real stack; a kind of stage is in test_cascade_resume.py."""

import gzip
import json
from pathlib import Path

import pytest

from tests.e2e.cascade_process import completed, metrics_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

SUPPORT = Path(__file__).parents[1] / "support"
LENGTHS = f"{SUPPORT}/own_environment.py:Lengths"
# From random weights: one token in a few hundred ends an answer, so the batch is large enough that some go on.
MULTI_TURN = [
    "cascade=nano",
    *(f"~stages.{stage}" for stage in ("sft1", "sft2", "reward_model", "rlhf", "if_rl", "code_rl", "swe_rl")),
    *(f"~evaluation.suites.{suite}" for suite in ("chat", "code", "swe", "instruction", "chat_think")),
    *(f"~evaluation.suites.{suite}" for suite in ("math_no_think", "to_think", "to_no_think")),
    "evaluation.suites.math.num_prompts=8",
    "evaluation.suites.math.sampling.max_tokens=16",
    "gate.on_regression=promote",
    "parallel=single",
    "logging.progress=false",
    "~stages.math_rl.tasks.at_once",
    f"stages.math_rl.tasks.math.environment={{kind: '{LENGTHS}', max_turns: 3, settings: {{wanted: 2}}}}",
    f"evaluation.suites.math.environment={{kind: '{LENGTHS}'}}",
    "stages.math_rl.steps=2",
    "stages.math_rl.prompts_per_step=8",
    "stages.math_rl.num_generations=16",
    "stages.math_rl.sampling.max_tokens=40",
    "stages.math_rl.rollouts_to_keep=128",
    "stages.math_rl.promise={improve: [], hold: ['*']}",
]


def test_an_environment_of_several_turns_trains_and_is_measured(tmp_path):
    run = completed(tmp_path, "turns", MULTI_TURN, 800)
    lines = metrics_of(run)["01-math_rl"]
    assert len(lines) == 2
    assert all(line["turns_mean"] > 1 and line["loss"] is not None for line in lines)
    with gzip.open(run / "stages" / "01-math_rl" / "rollouts" / "step_000001.jsonl.gz", "rt") as file:
        rollouts = [json.loads(line) for line in file]
    several = [r for r in rollouts if r["turns"]]
    assert several
    assert {r["detail"].startswith("off by") for r in rollouts} == {True}
    for rollout in several:
        first, second = rollout["turns"][:2]
        assert first["given"] == rollout["prompt"]
        assert second["given"].strip().isdigit()
        assert rollout["prompt"] + rollout["response"] == "".join(t["given"] + t["said"] for t in rollout["turns"])
    scores = json.loads((run / "scores.json").read_text())
    assert 0 < scores["math_rl"]["math"]["score"] < 1
