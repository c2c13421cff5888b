"""Tokens that were given are context for the real trainer: seen, and without a gradient of their own.

An environment gave them between two turns, or an engine forced them into one, to end its thought.
"""

from functools import partial

import numpy as np
import pytest

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.layout import make_document, sampled_document
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.types import FinishReason, first_turn
from tests.support.tiny_policy import Job, launch_jobs, policy_setup, write_tiny_folder

pytestmark = pytest.mark.distributed

GIVEN = slice(9, 13)


def two_turns():
    rng = np.random.default_rng(0)
    context, first, given, second = (rng.integers(8, 300, n).astype(np.int32) for n in (5, 4, 4, 6))
    one = first_turn("p", 0, context, first, np.full(4, -5.0), FinishReason.STOP, 1)
    asked = np.concatenate([one.token_ids, given])
    return one.followed_by(first_turn("p", 0, asked, second, np.full(6, -6.0), FinishReason.STOP, 2))


def one_turn():
    """The same tokens; those that an environment gave there were forced here."""
    said = two_turns()
    ids, forced = said.token_ids, (GIVEN.start - 5, GIVEN.stop - 5)
    return first_turn("p", 0, ids[:5], ids[5:], said.sampled_logprobs, FinishReason.STOP, 2, forced)


def _steps(worker, setup, said):
    """Return tokens, loss and norm of a step from the same weights on each document."""
    extras = {"advantages": np.where(said.trained > 0, np.float32(0.7), 0), "behaviour_logprobs": said.logprobs}
    poisoned = {name: values.copy() for name, values in extras.items()}
    other = said.token_ids.copy()
    for values in poisoned.values():
        values[GIVEN] = 100.0
    other[GIVEN] += 1
    variants = {
        "plain": sampled_document(said, extras),
        "poisoned": make_document(said.token_ids, said.trained, poisoned),
        "other words": make_document(other, said.trained, extras),
        "trained on all": make_document(said.token_ids, np.ones_like(said.trained), poisoned),
    }
    found = {}
    for name, variant in variants.items():
        worker.setup(setup)
        result = worker.train_step(balanced_micro_batches([variant], 512, 1), 0)
        found[name] = (result.tokens, result.loss, result.grad_norm)
    return found


def test_what_was_given_is_seen_and_has_no_gradient(tmp_path):
    setup = policy_setup(write_tiny_folder(tmp_path / "tiny"), objective=PolicyLoss(PolicyLossConfig()))
    givers = {"environment": two_turns(), "budget": one_turn()}
    jobs = [Job(giver, (0,), partial(_steps, said=said), setup) for giver, said in givers.items()]
    steps = launch_jobs(jobs, world_size=1)
    for giver, said in givers.items():
        (found,) = steps[giver]
        assert found["plain"][0] == said.num_sampled == 10
        assert found["poisoned"] == found["plain"]
        assert found["other words"][0] == 10
        assert found["other words"][2] != found["plain"][2]
        # The comparison can fail: with these values and a mask that is wrong, another step is taken.
        assert found["trained on all"][2] != found["plain"][2]
