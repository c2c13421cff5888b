"""Runs that don't fit are refused with the part that is too large and settings that fit; the shipped recipes fit."""

import pytest

from nemo_cascade.cli.machine_use import planned_use, trained_architectures
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.papers.compare import recipes
from nemo_cascade.planner.fit_run import misfits

ONE = ("parallel.tensor_model_parallel_size=1", "parallel.sequence_parallel=false")


def refused(*overrides):
    """Return the error of each stage that doesn't fit."""
    ready = preflight(overrides, None, fresh_folder=True, elsewhere=True)
    plans = planned_use(ready)
    assert plans
    found = misfits(ready.config, plans, trained_architectures(ready))
    return {error.what.split(" ")[0].removeprefix("stages."): error for error in found}


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
    error = refused(*overrides)[stage]
    assert f": {part} " in error.what, error
    assert error.mend, error
    assert stage not in refused(*overrides, *error.mend.split(" "))


@pytest.mark.parametrize("recipe", sorted(recipes()))
def test_a_shipped_recipe_fits_the_machine_that_it_names(recipe):
    ready = preflight((f"cascade={recipe}",), None, fresh_folder=True, elsewhere=True)
    assert ready.config.hardware.name == "H100"
    assert refused(f"cascade={recipe}") == {}
