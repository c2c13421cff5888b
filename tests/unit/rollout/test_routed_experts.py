"""An engine that can't tell experts says so before it starts."""

import pytest

from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.errors import RolloutError
from nemo_cascade.rollout.engine import RolloutWorker
from tests.support.tiny_policy import write_tiny_folder


def test_a_model_without_experts_can_not_tell_them(tmp_path):
    folder = write_tiny_folder(tmp_path / "dense", eos_token_id=7)
    with pytest.raises(RolloutError, match=r"without experts.*router_replay\.enabled=false"):
        RolloutWorker(model_path=folder, config=RolloutConfig(), seed=0, threads=1, device="cpu", routed_experts=True)
