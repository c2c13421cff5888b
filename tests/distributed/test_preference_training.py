"""Pairs on disk, the start's log-probabilities beside them, and training against it: the path of a preference stage."""

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.config.stages.preference import PreferenceLossConfig
from nemo_cascade.data.responses import ResponseSource, StoreWriter, open_responses
from nemo_cascade.losses.objective import OwnObjective
from nemo_cascade.losses.preference import Preference
from tests.support.tiny_policy import VOCAB, Job, launch_jobs, policy_setup, write_tiny_folder

STEPS, CUT, SEQ = 6, 3, 128
OWN = f"{Path(__file__).parents[1]}/support/own_loss.py:Hinge"


class _Ranks:
    """One rank as the group that a stage sees."""

    dtype = "fp32"

    def __init__(self, worker, setup):
        self.worker, self.parallel, self.asked = worker, setup.parallel, 0

    def logprobs(self, source, step):
        self.asked += 1
        return [self.worker.logprobs(source, step)]


def _train(worker, argument):
    from nemo_cascade.stages.preference import REFERENCE, reference_logprobs

    setup, pairs, root = argument
    worker.setup(setup)
    model = _Ranks(worker, setup)
    asks = [model, SimpleNamespace(parallel=setup.parallel, dtype="fp32")]  # whoever asks again needs no model
    made, found = [reference_logprobs(who, root / "tiny", open_responses(pairs), SEQ, root / "kept") for who in asks]
    assert made == found
    source = ResponseSource(pairs, 8, 0, SEQ, {REFERENCE: str(made)})
    results = []
    for step in range(STEPS):
        results.append(worker.train_step(source, step))
        if step + 1 == CUT:
            (root / "checkpoint").mkdir()
            worker.save_checkpoint(str(root / "checkpoint"), {"step": CUT})
    worker.setup(setup)
    worker.load_checkpoint(str(root / "checkpoint"))
    return results, [worker.train_step(source, step) for step in range(CUT, STEPS)], model.asked


def _train_own(worker, argument):
    """Train by a user's own loss; return with it the gaps of the pairs before the first step."""
    setup, pairs, _ = argument
    worker.setup(setup)
    source = ResponseSource(pairs, 8, 0, SEQ)
    gaps = []
    for batch, logprobs in zip(source.micro_batches(0, 0, 1), worker.logprobs(source, 0), strict=True):
        trained = np.where(batch.loss_mask > 0, logprobs, 0.0)
        sums = [trained[start:end].sum() for start, end in pairwise(batch.cu_seqlens)]
        gaps += [chosen - rejected for chosen, rejected in zip(sums[::2], sums[1::2], strict=True)]
    return gaps, [worker.train_step(source, step) for step in range(STEPS)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    root = tmp_path_factory.mktemp("preference")
    hf, rng = write_tiny_folder(root / "tiny"), np.random.default_rng(0)
    (root / "pairs").mkdir()
    with StoreWriter(root / "pairs", 2, ("rewards",)) as writer:
        for number in range(8):
            prompt, documents = rng.integers(0, VOCAB, 5), []
            for reward in (1.0, 0.0):
                ids = np.concatenate([prompt, rng.integers(0, VOCAB, rng.integers(4, 12))]).astype(np.int32)
                documents.append((ids, np.arange(len(ids)) >= 5, (reward,)))
            writer.add(number, documents)
        writer.finish({})
    places = str(root / "pairs"), root
    loss, optimizer = Preference(PreferenceLossConfig(beta=0.5)), OptimizerConfig(lr=1e-3, lr_decay_style="constant")
    jobs = {"dpo": (_train, loss), "own": (_train_own, OwnObjective(OWN, {"least_gap": 3.0}, loss))}
    made = [
        Job(name, (0,), work, (policy_setup(hf, objective=trained, optimizer=optimizer, seq_length=SEQ), *places))
        for name, (work, trained) in jobs.items()
    ]
    return {name: found[0] for name, found in launch_jobs(made, world_size=1, deadline_s=500.0).items()}


@pytest.mark.distributed
def test_the_first_step_is_at_the_reference_and_later_ones_prefer_the_chosen(answers):
    results, _, asked = answers["dpo"]
    assert asked == 1
    first, last = results[0], results[-1]
    assert first.loss == pytest.approx(math.log(2), abs=1e-5)
    assert first.metrics["margin"] == pytest.approx(0, abs=1e-4)
    assert last.loss < first.loss
    assert last.metrics["margin"] > 0.1
    assert last.metrics["accuracy"] == 1.0


@pytest.mark.distributed
def test_a_restart_repeats_the_steps_to_the_last_bit(answers):
    results, resumed, _ = answers["dpo"]
    assert results[CUT:] == resumed


@pytest.mark.distributed
def test_a_loss_of_ones_own_is_its_formula_and_trains(answers):
    gaps, results = answers["own"]
    assert len(gaps) == 8
    assert results[0].loss == pytest.approx(np.maximum(0, 3.0 - np.array(gaps)).mean(), rel=1e-5)
    assert results[0].metrics["gap"] == pytest.approx(np.mean(gaps), abs=1e-5)
    assert results[-1].loss < results[0].loss
