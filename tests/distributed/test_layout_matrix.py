"""Every combination of tensor, pipeline and context parallelism trains as one process does; `make matrix` runs it."""

from itertools import product

import numpy as np
import pytest

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.losses.reward_model import BradleyTerry
from tests.distributed.test_layout_curves import EXTRAS, LOSS, curve_of
from tests.support.tiny_policy import Job, TinyPairs, TinySource, launch_jobs, policy_setup, write_tiny_folder

pytestmark = [pytest.mark.long, pytest.mark.distributed, pytest.mark.timeout(7200)]

WORLD, STEPS = 8, 10
MASKED = PolicyLossConfig(correction="sequence_mask", correction_min=0.9, correction_max=1.1, aggregation="sequence")
# What a step is trained for, from where its data come, and how closely its curve has to follow.
OBJECTIVES = {
    "sft mb1": ({}, TinySource(1), 1e-5),
    "sft mb4": ({}, TinySource(4), 1e-5),
    "rl mb1": ({"objective": PolicyLoss(LOSS, temperature=0.8)}, TinySource(1, extras=EXTRAS), 1e-4),
    "rl of sequences mb4": (
        {"objective": PolicyLoss(MASKED)},
        TinySource(4, extras=(*EXTRAS, "sequence_weights")),
        1e-4,
    ),
    "reward model": ({"objective": BradleyTerry()}, TinyPairs(), 2e-4),
}


def layouts():
    """Return every layout of up to eight processes, and its number of processes."""
    found = {}
    for tp, pp, cp, vpp, sp in product((1, 2), (1, 2, 4), (1, 2), (1, 2), (False, True)):
        if (sp and tp == 1) or (vpp > 1 and pp != 2) or tp * pp * cp > WORLD:
            continue
        name = f"tp{tp} pp{pp}{' in 2 parts' * (vpp > 1)} cp{cp}{' sp' * sp}"
        found[name] = {"tp": tp, "pp": pp, "cp": cp, "vpp": vpp, "sp": sp}, tp * pp * cp
    found["pp2 of 3 and 1 cp2"] = {"pp": 2, "last": 1, "cp": 2}, 4
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_layout_gives_the_curve_of_one_process(tmp_path, name):
    hf = write_tiny_folder(tmp_path / "tiny")
    changes, source, limit = OBJECTIVES[name]
    jobs, free = [], 0
    for layout, (sizes, ranks) in layouts().items():
        # Small layouts run beside one another.
        free = 0 if free + ranks > WORLD else free
        jobs.append(
            Job(
                layout,
                tuple(range(free, free + ranks)),
                curve_of,
                (policy_setup(hf, **sizes, **changes), source, STEPS),
            )
        )
        free = (free + ranks) % WORLD
    answers = launch_jobs(jobs, world_size=WORLD, deadline_s=7000)
    expected, metrics = answers["tp1 pp1 cp1"][0]
    for layout, found in answers.items():
        for curve, other in found:
            np.testing.assert_allclose(curve, expected, rtol=limit, atol=limit if limit > 1e-5 else 0, err_msg=layout)
            assert other.keys() == metrics.keys()
            np.testing.assert_allclose(
                list(other.values()), list(metrics.values()), rtol=1e-3, atol=1e-4, err_msg=layout
            )
