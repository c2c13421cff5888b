import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.stages.roles import Roles
from tests.support.pinned_nano import PINNED


@pytest.mark.parametrize(("rule", "proven"), [("off", False), ("first", True), ("always", True)])
def test_an_evaluations_sync_is_proven_unless_proofs_are_off(rule, proven, tmp_path, monkeypatch):
    roles = Roles(compose([*PINNED, f"rollout.weight_sync.verify={rule}"])[0], tmp_path)
    asked = []
    monkeypatch.setattr(roles, "sync", lambda version, *, verify: asked.append((version, verify)))
    engines = object()
    roles._rollout, roles._rollout_holds, roles._rollout_version = engines, "other weights", 7
    roles.policy_now_holds(tmp_path)
    assert roles.engines_with(tmp_path, 3) is engines
    assert asked == [(8, proven)]
