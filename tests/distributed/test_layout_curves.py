"""The same training, whatever the layout and however a step is cut into micro-batches."""

import numpy as np
import pytest

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.config.stages.preference import PreferenceLossConfig
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.losses.preference import Preference
from nemo_cascade.types import PackedBatch
from tests.support.tiny_policy import (
    Job,
    TinyPairs,
    TinySource,
    launch_jobs,
    make_pack,
    make_policy_pairs,
    policy_setup,
    write_tiny_folder,
)

# All layouts, and for longer, in `make matrix`; here those that hold the others.
STEPS = 4
SFT = ("dp1 mb1", "dp2", "tp2 pp2 sp", "pp2 vpp2 mb1", "pp2 uneven", "cp2 tp2 sp mb1")
EXTRAS = ("advantages", "behaviour_logprobs", "reference_logprobs")
LOSS = PolicyLossConfig(kl_coefficient=0.1, entropy_coefficient=0.01, correction="truncated")


def curve_of(worker, argument):
    setup, source, *count = argument
    worker.setup(setup)
    steps = [worker.train_step(source, step) for step in range(*(count or [STEPS]))]
    return [(s.loss, s.grad_norm) for s in steps], steps[-1].metrics


def _scores(worker, argument):
    setup, source = argument
    worker.setup(setup)
    return worker.logprobs(source, 0)


def _vocabulary_parallel(worker, setup):
    """Score fixed logits; with 100 words in 2 x 128 columns the second rank holds nothing but padding."""
    import torch
    from megatron.core import parallel_state

    from nemo_cascade.training.logprobs import label_logprobs

    worker.setup(setup)
    group = parallel_state.get_tensor_model_parallel_group()
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(9, 256, generator=generator) * 4
    labels = torch.randint(0, 100, (9,), generator=generator)
    answers = []
    for words in (100, 200):
        own = whole.clone().requires_grad_()  # as hidden states; the weight picks this rank's logits out of them
        weight = torch.eye(256).chunk(2)[group.rank()]
        logprob, entropy = label_logprobs(own, weight, labels, vocab_size=words, group=group, block_tokens=4)
        (logprob + 0.3 * entropy).sum().backward()
        exact = whole[:, :words].double().requires_grad_()
        logp = exact.log_softmax(-1)
        want = logp.gather(1, labels[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
        (want[0] + 0.3 * want[1]).sum().backward()
        gradient = torch.zeros(9, 256, dtype=torch.float64)
        gradient[:, :words] = exact.grad
        shards = [x.chunk(2, 1)[group.rank()] for x in (own.grad, gradient)]
        pairs = ((logprob, want[0]), (entropy, want[1]), shards)
        answers += [float((got.double() - expected).abs().max()) for got, expected in pairs]
    return answers


class _OneDocumentEach:
    """The documents of a pack, each in a micro-batch of its own."""

    def __init__(self, packs):
        self.packs = packs

    def micro_batches(self, step, dp_rank, dp_size):
        return self.packs


def _split(pack):
    spans = zip(pack.cu_seqlens[:-1], pack.cu_seqlens[1:], strict=True)
    return [PackedBatch(pack.input_ids[a:b], pack.loss_mask[a:b], np.array([0, b - a], np.int32)) for a, b in spans]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    hf = write_tiny_folder(tmp_path_factory.mktemp("model") / "tiny")
    rl = {"objective": PolicyLoss(LOSS, temperature=0.8)}
    pack = make_pack([30, 18, 5, 41], seed=7)

    def curve(name, ranks, micro=4, extras=(), **layout):
        return Job(name, ranks, curve_of, (policy_setup(hf, **layout), TinySource(micro, extras=extras)))

    rpo = Preference(PreferenceLossConfig(form="rpo_bwd_kl", sft_weight=0.1))

    def pairs(name, ranks, **layout):
        setup = policy_setup(hf, objective=rpo, **layout)
        return Job(f"pairs {name}", ranks, curve_of, (setup, TinyPairs(make=make_policy_pairs)))

    jobs = [
        pairs("single", (0,)),
        pairs("dp2", (2, 3), dp=2),
        pairs("cp2 tp2 sp", (0, 1, 2, 3), cp=2, tp=2, sp=True),
        curve("dp1 mb4", (0,)),
        curve("dp1 mb1", (1,), micro=1),
        curve("dp2", (2, 3), dp=2),
        curve("tp2 pp2 sp", (0, 1, 2, 3), tp=2, pp=2, sp=True),
        curve("pp2 vpp2 mb1", (2, 3), micro=1, pp=2, vpp=2),
        curve("pp2 uneven", (0, 1), pp=2, last=1),
        curve("cp2 tp2 sp mb1", (0, 1, 2, 3), micro=1, cp=2, tp=2, sp=True),
        curve("rl dp1 mb1", (0,), micro=1, extras=EXTRAS, **rl),
        curve("rl tp2 dp2", (0, 1, 2, 3), tp=2, dp=2, extras=EXTRAS, **rl),
        curve("rl cp2 pp2 vpp2", (0, 1, 2, 3), cp=2, pp=2, vpp=2, extras=EXTRAS, **rl),
        Job("packed", (0,), _scores, (policy_setup(hf), _OneDocumentEach([pack]))),
        Job("unpacked", (1,), _scores, (policy_setup(hf), _OneDocumentEach(_split(pack)))),
        Job("packed cp2", (0, 1), _scores, (policy_setup(hf, cp=2), _OneDocumentEach([pack]))),
        Job("packed tp2 pp2", (0, 1, 2, 3), _scores, (policy_setup(hf, tp=2, pp=2), _OneDocumentEach([pack]))),
        Job("vocabulary tp2", (2, 3), _vocabulary_parallel, policy_setup(hf, tp=2)),
    ]
    return launch_jobs(jobs, deadline_s=400.0)


@pytest.mark.distributed
@pytest.mark.parametrize("name", SFT)
def test_sft_loss_and_gradient_norm_do_not_depend_on_the_layout(answers, name):
    reference, _ = answers["dp1 mb4"][0]
    assert reference[-1][0] < reference[0][0]
    for curve, _ in answers[name]:  # every rank reports the same numbers
        np.testing.assert_allclose(curve, reference, rtol=1e-5)
        assert curve == answers[name][0][0]


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["pairs dp2", "pairs cp2 tp2 sp"])
def test_a_loss_on_pairs_does_not_depend_on_the_layout(answers, name):
    reference, metrics = answers["pairs single"][0]
    assert reference[-1][0] != reference[0][0]  # of other pairs
    for curve, other in answers[name]:
        np.testing.assert_allclose(curve, reference, rtol=1e-4)
        assert {"preference_loss", "reward_gap", "sft_loss"} <= metrics.keys() == other.keys()


@pytest.mark.distributed
def test_policy_loss_and_metrics_do_not_depend_on_the_layout(answers):
    reference, metrics = answers["rl dp1 mb1"][0]
    for curve, other in answers["rl tp2 dp2"] + answers["rl cp2 pp2 vpp2"]:
        # The loss is a difference of near-equal sums: its absolute size says nothing about its rounding.
        np.testing.assert_allclose(curve, reference, rtol=1e-5, atol=1e-4)
        assert other.keys() == metrics.keys()
        assert {"entropy", "kl_reference", "importance_weight", "logprob_difference_max"} <= metrics.keys()
        np.testing.assert_allclose(list(other.values()), list(metrics.values()), rtol=1e-4, atol=1e-5)


@pytest.mark.distributed
def test_a_packed_document_scores_as_it_does_alone_and_only_one_rank_reports(answers):
    packed = answers["packed"][0][0]
    np.testing.assert_allclose(packed, np.concatenate(answers["unpacked"][0]), atol=2e-6)
    np.testing.assert_allclose(answers["packed cp2"][0][0], packed, atol=2e-6)
    reports = answers["packed tp2 pp2"]
    assert [report is not None for report in reports] == [False, False, True, False]
    np.testing.assert_allclose(reports[2][0], packed, atol=2e-6)


@pytest.mark.distributed
def test_vocabulary_parallel_scores_match_float64_even_where_a_rank_holds_padding_only(answers):
    assert max(max(errors) for errors in answers["vocabulary tp2"]) < 1e-5
