"""What can't be asked of a router."""

from nemo_cascade.config.router import RouterConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.sft import SftStage


def test_a_frozen_router_is_not_balanced_by_a_loss():
    frozen = RouterConfig(trainable=False, balance_coefficient=1e-4)
    (problem,) = frozen.problems("stages.math_rl.router")
    assert "stages.math_rl.router.trainable=false" in str(problem)
    for sound in (RouterConfig(trainable=False), RouterConfig(balance_coefficient=1e-4)):
        assert list(sound.problems("")) == []


def test_reinforcement_freezes_routers_and_fine_tuning_does_not():
    defaults = [
        next(field for field in stage.__dataclass_fields__.values() if field.name == "router").default_factory()
        for stage in (SftStage, GrpoStage)
    ]
    assert [router.trainable for router in defaults] == [True, False]
