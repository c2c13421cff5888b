"""The built wheel outside the checkout: the shipped recipes are in it, and a verifier of one's own is used in GRPO."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(folder, *words):
    command = [sys.executable, "-m", "nemo_cascade", "run", *words]
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_the_wheel_has_the_recipes(installed):
    code, text = run(installed, "cascade=nano", "name=dry", "runs_dir=runs", "--dry")
    assert code == 0, text
    assert "math_rl" in text
    where = [sys.executable, "-c", "import nemo_cascade; print(nemo_cascade.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(installed / "site")}
    found = subprocess.run(where, cwd=installed, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(installed))


def test_a_verifier_of_ones_own_rewards_grpo_and_its_settings_are_checked(installed):
    own = [*MICRO, "~stages.sft2", "name=own", "runs_dir=runs", "stages.sft1.max_steps=4", "stages.math_rl.steps=2"]
    own += ["stages.sft1.promise={improve: [], hold: []}", "stages.math_rl.promise={improve: [], hold: []}"]
    own += ["stages.math_rl.mixed_with=[]", "stages.math_rl.prompts.verifier=own_reward.py:length"]
    code, text = run(installed, *own, "+stages.math_rl.prompts.reward.mots=20")
    assert code == 2, text
    assert "stages.math_rl.prompts.reward.mots" in text
    assert "did you mean" in text

    code, text = run(installed, *own, "+stages.math_rl.prompts.reward.most=20")
    assert code == 0, text
    log = next(installed.glob("runs/own/stages/*-math_rl/rollouts/step_000001.jsonl.gz"))
    rollouts = [json.loads(line) for line in gzip.decompress(log.read_bytes()).splitlines()]
    assert rollouts
    for rollout in rollouts:
        assert rollout["reward"] == pytest.approx(min(len(rollout["response"].removesuffix("<|im_end|>")), 20) / 20)

    (installed / "own_reward.py").write_text(REWARD.replace("min(", "-min("))
    code, text = run(installed, *own, "+stages.math_rl.prompts.reward.most=20", "stages.math_rl.checkpoint_every=3")
    assert code == 2, text
    assert "the code of a verifier changed since the run began" in text
