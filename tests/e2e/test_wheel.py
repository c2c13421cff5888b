"""The built wheel outside the checkout: its recipes, a verifier of one's own in GRPO, and a run driven by a script."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_cascade.slurm.script import SOURCED
from tests.e2e.cascade_process import MICRO

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

# Rewards answers for their length, which the model as it starts varies enough in to learn from.
REWARD = """
def length(record, response, *, most: int = 10) -> float:
    return min(len(response.text), most) / most
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder outside the checkout with the wheel installed beside the environment's packages."""
    folder, checkout = tmp_path_factory.mktemp("elsewhere"), Path(__file__).parents[2]
    pip = [sys.executable, "-m", "pip"]
    offline = ["--no-deps", "--no-index", "--disable-pip-version-check", "-q"]
    wheel = [*pip, "wheel", *offline, "--no-build-isolation", "-w", str(folder), str(checkout)]
    subprocess.run(wheel, check=True, timeout=120)
    (built,) = folder.glob("nemo_cascade-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(folder / "site"), str(built)], check=True, timeout=120)
    (folder / "own_reward.py").write_text(REWARD)
    return folder


SCRIPT = """
import json, sys
import nemo_cascade as nc

steps, stages = [], []
run = nc.run(*sys.argv[1:], on_step=lambda stage, step, line: steps.append([stage, step, sorted(line)]),
             on_stage=lambda stage, decision: stages.append([stage, decision.outcome]))
told = {"steps": steps, "stages": stages, "scores": run.scores().to_pylist(), "outcome": run.outcome,
        "rollouts": run.rollouts("math_rl", 1).to_pylist(), "metrics": run.metrics("math_rl").column_names}
print("TOLD" + json.dumps(told))
"""


def run(folder, *words, python=("-m", "nemo_cascade", "run")):
    command = [sys.executable, *python, *words]
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_the_wheel_has_the_recipes_and_the_templates_of_jobs(installed):
    code, text = run(installed, "cascade=nano", "name=dry", "runs_dir=runs", "--dry")
    assert code == 0, text
    assert "math_rl" in text
    where = [sys.executable, "-c", "import nemo_cascade; print(nemo_cascade.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(installed / "site")}
    found = subprocess.run(where, cwd=installed, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(installed))
    templates = installed / "site" / "nemo_cascade" / "slurm" / "templates"
    assert {"job.sbatch.j2", *SOURCED} <= {file.name for file in templates.iterdir()}


@pytest.mark.long
def test_a_verifier_of_ones_own_rewards_grpo_and_its_settings_are_checked(installed):
    own = [
        *MICRO,
        "~stages.sft2",
        "name=own",
        "runs_dir=runs",
        f"data_dir={installed.parent}/data",
        "stages.sft1.max_steps=4",
        "stages.math_rl.steps=2",
    ]
    own += ["stages.sft1.promise={improve: [], hold: []}", "stages.math_rl.promise={improve: [], hold: []}"]
    own += ["~stages.math_rl.tasks.at_once", "stages.math_rl.tasks.math.reward.kind=own_reward.py:length"]
    code, text = run(installed, *own, "+stages.math_rl.tasks.math.reward.mots=20")
    assert code == 2, text
    assert "stages.math_rl.tasks.math.reward.mots" in text
    assert "did you mean" in text

    code, text = run(installed, *own, "+stages.math_rl.tasks.math.reward.most=20", python=["-c", SCRIPT])
    assert code == 0, text
    told = json.loads(next(line for line in text.splitlines() if line.startswith("TOLD"))[4:])
    assert told["rollouts"]
    for rollout in told["rollouts"]:
        assert rollout["reward"] == pytest.approx(min(len(rollout["response"].removesuffix("<|im_end|>")), 20) / 20)
    assert [step[:2] for step in told["steps"]] == [["sft1", n] for n in (1, 2, 3, 4)] + [
        ["math_rl", 1],
        ["math_rl", 2],
    ]
    assert told["steps"][-1][2] == sorted(told["metrics"])
    assert told["stages"] == [["sft1", "promote"], ["math_rl", "promote"]]
    assert told["outcome"] == "2 of 2 stages decided: 2 promoted"
    assert {row["stage"] for row in told["scores"]} == {"start", "sft1", "math_rl"}

    (installed / "own_reward.py").write_text(REWARD.replace("min(", "-min("))
    code, text = run(installed, *own, "+stages.math_rl.tasks.math.reward.most=20", "stages.math_rl.checkpoint_every=3")
    assert code == 2, text
    assert "the code of a plug-in changed since the run began" in text
