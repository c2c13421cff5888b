"""A cascade as a graph: a stage starts from the one that it names, as that one's gate left it."""

from dataclasses import replace

import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.plan import plan_stages
from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.gate import GateOverride
from nemo_cascade.config.stages.base import CarryConfig
from nemo_cascade.errors import ConfigError
from tests.unit.cascade.scripted import GOOD, LAST, START, World


@pytest.fixture
def world(config, tmp_path, monkeypatch):
    def make(parent, on_regression):
        scene = World(config, tmp_path, monkeypatch, GOOD, stage_gate=GateOverride(on_regression=on_regression))
        code_rl = replace(scene.config.stages["code_rl"], parent=parent, carry=CarryConfig())
        scene.config = replace(scene.config, stages={**scene.config.stages, "code_rl": code_rl})
        return scene

    return make


@pytest.mark.parametrize(
    ("parent", "on_regression", "starts_from", "named"),
    [
        ("start", "promote", START, "start"),
        ("math_rl", "promote", LAST, "math_rl"),
        # What was rolled back has its own parent in its place.
        ("math_rl", "rollback", START, "start"),
    ],
)
def test_a_stage_starts_from_the_one_that_it_names(world, parent, on_regression, starts_from, named):
    scene = world(parent, on_regression)
    assert scene.run() == 0
    assert scene.parents[-1][:2] == ("code_rl", starts_from)
    ledger = scene.runner().ledger
    assert ledger.find("stage_started", "code_rl").details["parent"] == named
    assert ledger.find("decided", "code_rl").details["parent"] == named
    assert ledger.find("run_finished").details["best"] == "code_rl"
    # Run again, it finds everything decided.
    trained = len(scene.parents)
    assert scene.run() == 0
    assert len(scene.parents) == trained


def test_a_parent_is_a_policy_that_is_there_by_then(config, tmp_path):
    stages = dict(config.stages)
    stages["sft1"] = replace(stages["sft1"], parent="math_rl")
    stages["code_rl"] = replace(stages["code_rl"], parent="start", carry=CarryConfig(optimizer=True))
    branched = replace(config, stages=stages)
    with pytest.raises(ConfigError, match=r"stages\.sft1\.parent: no policy by then; got: math_rl; allowed: start"):
        plan_stages(branched, RunFolder(tmp_path))
    carried = [str(v) for v in violations(branched) if "carry" in str(v)]
    assert len(carried) == 1
    assert "no parent's optimizer" in carried[0]
    stages["sft1"] = config.stages["sft1"]
    planned = plan_stages(replace(config, stages=stages), RunFolder(tmp_path))
    assert [p.parent for p in planned] == ["start", "sft1", "start"]
