"""A router's choices, given: gates of the present scores, the same bits where both agree, refusals where nobody can."""

import numpy as np
import pytest
import torch

from nemo_cascade.data.layout import dummy_beside, lay_out, sampled_document
from nemo_cascade.errors import RolloutError, TrainingError
from nemo_cascade.models.choices import check_replay
from nemo_cascade.models.hf_config import architecture_from_hf
from nemo_cascade.models.megatron.replay import Replay
from nemo_cascade.types import FinishReason, first_turn
from tests.support.hf_models import MIXTURES
from tests.support.tiny_policy import CONFIG

TOKENS, EXPERTS, CHOSEN = 50, 8, 3


def top_k(scores_TE, topk, num_groups=None, group_topk=None):
    return torch.topk(scores_TE, topk, dim=1)


def asked(replay, scores_TE):
    return replay.get_replay_topk(scores_TE, CHOSEN, default_compute_topk=top_k)


def scores():
    return torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(0))


def test_choices_that_agree_are_the_same_bits_in_whatever_order_they_come():
    expected = top_k(scores(), CHOSEN)
    order = torch.rand(TOKENS, CHOSEN, generator=torch.Generator().manual_seed(1)).argsort(1)
    replay = Replay(expected[1].gather(1, order))
    for found, wanted in zip(asked(replay, scores()), expected, strict=True):
        assert torch.equal(found, wanted)
    assert not replay.other_T1.any()
    nothing = Replay(torch.full((TOKENS, CHOSEN), -1))
    for found, wanted in zip(asked(nothing, scores()), expected, strict=True):
        assert torch.equal(found, wanted)
    assert not nothing.given_T1.any()


def test_other_choices_have_the_present_scores_and_their_gradient():
    scores_TE = scores().requires_grad_()
    _, own_TK = top_k(scores_TE, CHOSEN)
    given_TK = (own_TK + 1) % EXPERTS
    given_TK[::5] = -1
    replay = Replay(given_TK)
    found_TK, chosen_TK = asked(replay, scores_TE)
    wanted_TK = torch.where(given_TK >= 0, given_TK, own_TK)
    assert torch.equal(chosen_TK.sort(1).values, wanted_TK.sort(1).values)
    assert torch.equal(found_TK, scores_TE.gather(1, chosen_TK))
    assert replay.given_T1.sum() == TOKENS * 4 // 5
    differs_T = (wanted_TK.sort(1).values != own_TK.sort(1).values).any(1)
    assert torch.equal(replay.other_T1[:, 0], differs_T)
    found_TK.softmax(1)[:, 0].sum().backward()
    chosen_TE = torch.zeros(TOKENS, EXPERTS, dtype=torch.bool).scatter(1, chosen_TK, True)
    assert torch.equal(scores_TE.grad != 0, chosen_TE)


def rollout(routed):
    ids, logprobs = np.arange(4, dtype=np.int32), np.full(4, -1.0, np.float32)
    return first_turn("p", 0, ids, ids, logprobs, FinishReason.STOP, 1, routed_experts=routed)


def routed(tokens, layers=6, chosen=2):
    rng = np.random.default_rng(0)
    return rng.permuted(np.tile(np.arange(8, dtype=np.int16), (tokens, layers, 1)), axis=-1)[..., :chosen]


def test_a_document_keeps_its_experts_where_its_tokens_are_read():
    answer = rollout(routed(8))
    document = sampled_document(answer, {}, replay=True)
    assert np.array_equal(document.routed_experts, answer.routed_experts)
    pack = lay_out([document, dummy_beside(document)])
    assert np.array_equal(pack.routed_experts[:8], answer.routed_experts)
    assert (pack.routed_experts[8:] == -1).all()
    check_replay(pack, architecture_from_hf(MIXTURES["qwen3_moe"]))
    assert sampled_document(answer, {}).routed_experts is None
    with pytest.raises(RolloutError, match="p sample 0"):
        sampled_document(rollout(None), {}, replay=True)


def test_of_a_token_that_was_read_twice_the_first_word_counts():
    one, two = routed(8), routed(14)[::-1].copy()
    one[-1] = two[-1] = -1
    first = rollout(one)
    asked_again = np.append(first.token_ids, [5, 6]).astype(np.int32)
    answer = first_turn(
        "p", 0, asked_again, np.arange(4, dtype=np.int32), np.zeros(4), FinishReason.STOP, 2, routed_experts=two
    )
    both = first.followed_by(answer).routed_experts
    assert np.array_equal(both[:7], one[:7])
    assert np.array_equal(both[7:], two[7:])
    silent = first_turn("p", 0, asked_again, np.zeros(1, np.int32), np.zeros(1), FinishReason.STOP, 2)
    assert first.followed_by(silent).routed_experts is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r[:, 1:], "another shape .*int16 \\[8, 5, 2\\].*allowed: int16 \\[8, 6, 2\\]"),
        (lambda r: r[..., :1], "another shape"),
        (lambda r: r[1:], "another shape"),
        (lambda r: np.where(r == 7, 8, r), "below 8 in each layer"),
        (lambda r: r[..., :1].repeat(2, -1), "token 0 of a micro-batch"),
        (lambda r: np.where(np.arange(6)[:, None] == 3, -1, r), "token 0 of a micro-batch"),
        (lambda r: np.where(np.arange(2) == 1, -1, r), "token 0 of a micro-batch"),
    ],
)
def test_choices_that_the_model_can_not_have_made_are_refused(change, text):
    document = sampled_document(rollout(change(routed(8)).astype(np.int16)), {}, replay=True)
    with pytest.raises(TrainingError, match=text):
        check_replay(document, architecture_from_hf(MIXTURES["qwen3_moe"]))


def test_a_dense_model_has_nothing_to_replay():
    with pytest.raises(TrainingError, match="a model without experts"):
        check_replay(sampled_document(rollout(routed(8)), {}, replay=True), architecture_from_hf(CONFIG))
