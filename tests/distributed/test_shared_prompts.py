"""Pairs whose responses share one copy of their prompt: the numbers of pairs laid out whole, in fewer tokens."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.config.stages.preference import PreferenceLossConfig
from nemo_cascade.data.layout import lay_out, make_document, share_prompt
from nemo_cascade.errors import TrainingError
from nemo_cascade.losses.preference import Preference
from nemo_cascade.losses.reward_model import BradleyTerry
from nemo_cascade.types import PackedBatch
from tests.support.tiny_policy import VOCAB, Job, launch_jobs, policy_setup, write_tiny_folder

pytestmark = pytest.mark.distributed

STEPS = 3
# Prompt, chosen, rejected: long and short ones, one of a single token, responses that begin alike, many of one length.
SHAPES = ([(40, 9, 21), (1, 30, 2)], [(17, 5, 5), (17, 5, 5), (17, 5, 5), (3, 2, 60)])
LAYOUTS = {"one": {}, "tp2": {"tp": 2, "sp": True}, "pp2": {"pp": 2}, "dp2": {"dp": 2}}
# Adam's first steps have the length of the rate wherever a gradient points, be it by rounding.
SLOW = OptimizerConfig(lr=1e-4, lr_decay_style="constant")


@dataclass(frozen=True)
class Pairs:
    """Two micro-batches of random pairs per step; `shared` leaves the rejected one's prompt out."""

    shared: bool
    marked: bool = False
    changed: int | None = None

    def micro_batches(self, step, dp_rank, dp_size):
        packs = [self._pack(100 * step + i, shape) for i, shape in enumerate(SHAPES)]
        if self.changed is not None:
            packs[0].input_ids[self.changed] += 1
        return packs[dp_rank::dp_size]

    def _pack(self, seed, shape):
        documents = []
        for number, (prompt, *responses) in enumerate(shape):
            pair = self._pair(np.random.default_rng((seed, number)), prompt, responses)
            documents += share_prompt(pair) if self.shared else pair
        return lay_out(documents)

    def _pair(self, rng, prompt, responses):
        said, first = rng.integers(0, VOCAB - 1, prompt), rng.integers(0, VOCAB - 1)
        for tokens in responses:
            ids = np.concatenate([said, [first], rng.integers(0, VOCAB - 1, tokens)]).astype(np.int32)
            trained = (np.arange(len(ids)) == len(ids) - 1) if self.marked else (np.arange(len(ids)) >= prompt)
            extras = {
                name: rng.normal(-5, 1, len(ids)).astype(np.float32) for name in ("reference_logprobs", "rewards")
            }
            yield make_document(ids, trained, extras)


def _train(worker, argument):
    setup, source = argument
    worker.setup(setup)
    return [worker.train_step(source, step) for step in range(STEPS)]


def _leak(worker, argument):
    """Return the log-probabilities of the first pack, whole, and with one token of its first document changed."""
    worker.setup(argument)
    found = []
    for changed in (None, 40 + 3, 10):  # none; of the chosen response; of the prompt
        source = Pairs(shared=True, changed=changed)
        found.append((source.micro_batches(0, 0, 1)[0], worker.logprobs(source, 0)[0]))
    return found


def _refused(worker, argument):
    worker.setup(argument)
    with pytest.raises(TrainingError, match=r"documents can't share a prompt.*context_parallel_size 2"):
        worker.train_step(Pairs(shared=True), 0)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    hf = write_tiny_folder(tmp_path_factory.mktemp("shared") / "tiny")
    objectives = {"policy": Preference(PreferenceLossConfig(beta=0.5, sft_weight=0.1)), "score": BradleyTerry()}
    jobs = []
    for name, objective in objectives.items():
        for layout, sizes in LAYOUTS.items():
            ranks = (0,) if layout == "one" else (0, 1)
            for shared in (False, True) if layout == "one" else (True,):
                setup = policy_setup(hf, objective=objective, optimizer=SLOW, **sizes)
                pairs = Pairs(shared, marked=name == "score")
                jobs.append(Job(f"{name} {layout} {shared}", ranks, _train, (setup, pairs)))
    jobs.append(Job("leak", (0,), _leak, policy_setup(hf)))
    jobs.append(Job("refused", (0, 1), _refused, policy_setup(hf, cp=2)))
    return launch_jobs(jobs, world_size=2, deadline_s=500.0)


@pytest.mark.parametrize("objective", ["policy", "score"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_and_gradients_are_those_of_whole_pairs_in_fewer_tokens(found, objective, layout):
    whole, shared = found[f"{objective} one False"][0], found[f"{objective} {layout} True"][0]
    packs = [Pairs(True, marked=objective == "score").micro_batches(step, 0, 1) for step in range(STEPS)]
    for expected, step, batches in zip(whole, shared, packs, strict=True):
        assert step.loss == pytest.approx(expected.loss, rel=1e-5)
        assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
        assert step.metrics["total_tokens"] == sum(pack.num_tokens for pack in batches)
        assert step.metrics["total_tokens"] <= expected.metrics["total_tokens"] - 39 - 3 * 16 - 2
        for name in expected.metrics.keys() - {"total_tokens"}:
            assert step.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-4, abs=1e-6), name


def test_the_rejected_one_reads_the_prompt_and_nothing_of_the_chosen_one(found):
    (pack, own), (_, chosen), (_, prompt) = found["leak"][0]
    begin, end = pack.cu_seqlens[1:3]
    assert pack.borrowed.tolist()[:2] == [0, 39]
    np.testing.assert_array_equal(own[begin:end], chosen[begin:end])
    assert not np.array_equal(own[:begin], chosen[:begin])
    assert (own[begin : end - 1] != prompt[begin : end - 1]).all()
    np.testing.assert_array_equal(own[end:], prompt[end:])


def test_a_layout_that_cuts_documents_is_refused(found):
    assert "refused" in found


def test_what_is_left_out_is_what_both_begin_with_and_nothing_trained():
    ids = np.array([5, 6, 7, 8, 9], np.int32)
    trained = np.array([0, 0, 0, 1, 1], np.uint8)
    value = {"rewards": np.arange(5, dtype=np.float32)}
    other = np.array([5, 6, 7, 8, 1, 2], np.int32)
    first, second = share_prompt(
        [
            make_document(ids, trained, value),
            make_document(other, np.append(trained, 1), {"rewards": np.ones(6, np.float32)}),
        ]
    )
    assert first.borrowed is None
    # Its response begins at 8, which is predicted at 7: alike up to there, though both responses go on alike.
    assert second.input_ids.tolist() == [7, 8, 1, 2]
    assert second.loss_mask.tolist() == [1, 1, 1, 0]
    assert second.labels.tolist() == [8, 1, 2, 0]
    pack = lay_out([first, second, first])
    assert pack.borrowed.tolist() == [0, 2, 0]
    assert lay_out([first, first]).borrowed is None
    strange = make_document(np.array([4, 6, 7], np.int32), np.array([0, 1, 1], np.uint8), value)
    untrained = replace(first, loss_mask=np.zeros(5, np.float32))
    assert [d.borrowed for d in share_prompt([first, strange, untrained])] == [None] * 3
    assert isinstance(pack, PackedBatch)
