"""Runs that don't fit are refused with the part that is too large and settings that fit; the shipped recipes fit."""

import pytest

from nemo_cascade.cli.machine_use import planned_use, trained_architectures
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.papers.compare import recipes
from nemo_cascade.planner.fit_run import misfits

ONE = ("parallel.tensor_model_parallel_size=1", "parallel.sequence_parallel=false")


def planned(*overrides):
    """Return the checked run and the plan of each of its stages."""
    ready = preflight(overrides, None, fresh_folder=True, elsewhere=True)
    return ready, {plan.name: plan for plan in planned_use(ready)}


# fmt: off
PLANTED = {
    "weights": ("general_sft", "cascade=nemotron_4/340b", *ONE, "parallel.pipeline_model_parallel_size=1",
                "parallel.data_parallel_size=128"),
    "activations": ("sft", "cascade=nemotron_3_nano/4b", *ONE, "parallel.recompute=none"),
    "optimizer": ("sft_16k", "cascade=nemotron_cascade/8b", *ONE, "parallel.data_parallel_size=1"),
    "engine cache": ("math_rl_24k", "cascade=nemotron_cascade/8b", "rollout.gpu_memory_utilization=0.98"),
    "engine weights": ("rpo_1", "cascade=nemotron_4/340b", "rollout.tensor_parallel_size=4"),
}
# fmt: on


@pytest.mark.parametrize("part", PLANTED)
def test_a_planted_misfit_is_refused_with_its_part_and_settings_that_fit(part):
    stage, *overrides = PLANTED[part]
    ready, plans = planned(*overrides)
    (error,) = misfits(ready.config, [plans[stage]], trained_architectures(ready))
    assert f": {part} " in error.what, error
    assert planned(*overrides, *error.mend.split(" "))[1][stage].fits


@pytest.mark.parametrize("recipe", sorted(recipes()))
def test_a_shipped_recipe_fits_the_machine_that_it_names(recipe):
    ready, plans = planned(f"cascade={recipe}")
    assert ready.config.hardware.name in ("H100", "H200")
    assert plans
    assert all(plan.fits for plan in plans.values())
