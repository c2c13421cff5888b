import math

import pytest

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.errors import TrainingError
from nemo_cascade.training.schedule import check_warm_up, learning_rate


def test_warm_up_is_linear_and_never_zero():
    config = OptimizerConfig(lr=1e-3, lr_warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in range(4)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    config = OptimizerConfig(lr=1e-3, lr_warmup_init=2e-4, lr_warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in range(4)] == pytest.approx([4e-4, 6e-4, 8e-4, 1e-3])


@pytest.mark.parametrize(
    ("style", "middle"), [("cosine", 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi / 2))), ("linear", 5.5e-4)]
)
def test_decay_runs_from_peak_to_floor_within_the_horizon(style, middle):
    config = OptimizerConfig(lr=1e-3, min_lr=1e-4, lr_decay_style=style, lr_warmup_steps=10, lr_decay_steps=30)
    assert learning_rate(config, 10, 1000) == pytest.approx(1e-3)
    assert learning_rate(config, 20, 1000) == pytest.approx(middle)
    assert learning_rate(config, 30, 1000) == 1e-4
    assert learning_rate(config, 999, 1000) == 1e-4


def test_horizon_defaults_to_the_stage_and_constant_stays():
    assert learning_rate(OptimizerConfig(lr=1.0, min_lr=0.25, lr_decay_style="linear"), 11, 11) == 0.25
    assert learning_rate(OptimizerConfig(lr=1.0, lr_decay_style="constant"), 500, 11) == 1.0


def test_one_step_stage_trains_at_the_peak():
    assert learning_rate(OptimizerConfig(lr=1.0), 0, 1) == 1.0


@pytest.mark.parametrize(
    ("style", "half"),
    [("linear", 0.5), ("cosine", 0.5), ("minus_sqrt", 1 - math.sqrt(0.5)), ("exponential", 2 * 0.5**0.5 - 1)],
)
def test_warm_up_stable_decay_stays_at_its_peak_and_falls_at_the_end(style, half):
    config = OptimizerConfig(
        lr=1e-3, min_lr=1e-4, lr_decay_style="wsd", lr_wsd_decay_steps=8, lr_wsd_decay_style=style,
        lr_warmup_fraction=0.125,
    )  # fmt: skip
    rates = [learning_rate(config, step, 32) for step in range(33)]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[4:25] == [1e-3] * 21
    assert rates[28] == pytest.approx(1e-4 + 9e-4 * half)
    assert rates[24:] == sorted(rates[24:], reverse=True)
    assert rates[32] == 1e-4


def test_a_schedule_without_room_for_its_parts_is_refused():
    config = OptimizerConfig(lr=1.0, lr_decay_style="wsd", lr_wsd_decay_steps=30, lr_warmup_steps=5)
    with pytest.raises(TrainingError, match=r"lr_wsd_decay_steps=27"):
        check_warm_up(config, 32, "sft")
    with pytest.raises(TrainingError, match="warm-up takes the whole schedule"):
        check_warm_up(OptimizerConfig(lr=1.0, lr_warmup_fraction=1.0), 32, "sft")
