"""What can't be asked of a router."""

from nemo_cascade.cli.preflight import architecture_of, model_problems
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.router import RouterConfig, RouterReplayConfig
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


def test_replay_is_for_models_with_experts_and_measured_only_where_it_is_on():
    (problem,) = RouterReplayConfig(measure_every=5).problems("stages.math_rl.router_replay")
    assert "router_replay.measure_every=5 with stages.math_rl.router_replay.enabled=false" in str(problem)
    assert list(RouterReplayConfig(enabled=True, measure_every=5).problems("")) == []
    config, _ = compose(["cascade=nano", "parallel=single", "stages.math_rl.router_replay.enabled=true"])
    (problem,) = model_problems(config, architecture_of(config))
    assert "no experts whose choice could be replayed" in str(problem)
    assert "stages.math_rl.router_replay" in problem.mend
    config, _ = compose(
        ["cascade=nano", "parallel=single", "model=nano_moe", "stages.math_rl.router_replay.enabled=true"]
    )
    assert model_problems(config, architecture_of(config)) == []
