"""Runs that don't fit are refused with the part that is too large; the shipped recipes fit their machines."""

from functools import cache

import pytest

from nemo_cascade.cli.machine_use import planned_use, trained_architectures
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.planner.fit_run import misfits

RECIPE = "cascade=nemotron_cascade/8b"
ONE_GPU = "parallel.data_parallel_size=1"


@cache
def refused(*overrides):
    ready = preflight((RECIPE, *overrides), None, fresh_folder=True, elsewhere=True)
    return {
        error.what.split(" ")[0]: error
        for error in misfits(ready.config, planned_use(ready), trained_architectures(ready))
    }


# fmt: off
PLANTED = {
    "optimizer": ("parallel.use_distributed_optimizer=false", "parallel.tensor_model_parallel_size=1",
                  "parallel.sequence_parallel=false", "parallel.data_parallel_size=64"),
    "activations": ("parallel.recompute=none", "parallel.tensor_model_parallel_size=1",
                    "parallel.sequence_parallel=false", "parallel.data_parallel_size=64",),
    "engine cache": ("rollout.gpu_memory_utilization=0.98",),
    "gradients": ("parallel.tensor_model_parallel_size=1", "parallel.sequence_parallel=false",
                  "parallel.data_parallel_size=64", "rollout.gpu_memory_utilization=0.2", "hardware.memory_gb=48"),
}
# fmt: on


@pytest.mark.parametrize("part", PLANTED)
def test_a_planted_misfit_is_refused_with_the_part_that_is_too_large(part):
    errors = refused(*PLANTED[part])
    assert errors
    assert any(f": {part} " in error.what for error in errors.values()), [str(error) for error in errors.values()]


@pytest.mark.parametrize(
    "recipe", ["nemotron_cascade/8b", "nemotron_cascade/8b_thinking", "nemotron_cascade/14b_thinking"]
)
def test_a_shipped_recipe_fits_its_machine(recipe):
    ready = preflight((f"cascade={recipe}",), None, fresh_folder=True, elsewhere=True)
    plans = planned_use(ready)
    assert plans
    assert not misfits(ready.config, plans, trained_architectures(ready))
