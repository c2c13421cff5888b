"""Engines that share GPUs with a stage which trains without them are ended; all others stay."""

import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.stages.roles import Roles
from tests.support.pinned_nano import PINNED

MEASURED = "stages.sft1.measure={suites: [math], every: 5}"


class Engines:
    closed = False

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("device", "placement", "stage", "more", "ended"),
    [
        ("gpu", "colocated", "sft1", (), True),
        ("gpu", "colocated", "sft1", (MEASURED,), False),
        ("gpu", "colocated", "math_rl", (), False),
        ("gpu", "disaggregated", "sft1", (), False),
        ("cpu", "colocated", "sft1", (), False),
    ],
)
def test_engines_rest_while_a_stage_trains_without_them(device, placement, stage, more, ended, tmp_path):
    config = compose([*PINNED, f"cluster.device={device}", f"rollout.placement={placement}", *more])[0]
    roles, engines = Roles(config, tmp_path), Engines()
    roles._rollout, roles._rollout_holds, roles._rollout_version = engines, "weights", 7
    roles.make_room(config.stages[stage])
    assert engines.closed is ended
    assert (roles._rollout is None) is ended
    assert roles.rollout_version == (0 if ended else 7)
