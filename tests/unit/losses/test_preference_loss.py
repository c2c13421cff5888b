"""DPO, IPO and RPO with their gradients against a float64 reference: plain loops, written from the formulas."""

import itertools
import math

import numpy as np
import pytest
import torch

from nemo_cascade.config.stages.preference import PreferenceLossConfig
from nemo_cascade.losses.correction import Documents
from nemo_cascade.losses.preference import preference_loss
from nemo_cascade.losses.units import count_units
from nemo_cascade.types import PackedBatch

FORMS = [("dpo", False), ("dpo", True), ("ipo", False), ("rpo_bwd_kl", False), ("rpo_fwd_kl", False), ("rpo_sq", False)]
CASES = [
    PreferenceLossConfig(form=form, margin=margin, average=average, sft_weight=weight, beta=beta, eta=eta)
    for (form, margin), average, weight, (beta, eta) in itertools.product(
        FORMS, (False, True), (0.0, 0.3), ((0.1, 1.0), (0.7, 0.4), (3e-3, 2.0))
    )
]


def draw_pairs(seed, count=5):
    """Return responses, chosen and rejected in turn: mask, log-probs, reference log-probs, reward."""
    rng = np.random.default_rng(seed)
    documents = []
    for _ in range(2 * count):
        length, prompt = int(rng.integers(6, 13)), int(rng.integers(1, 4))
        mask = np.arange(length) >= prompt
        mask[-1] = False  # the last token predicts nothing
        mask[prompt + 1 : -1] &= rng.random(length - prompt - 2) < 0.9
        logprob = rng.normal(-2, 1, length)
        documents.append((mask, logprob, logprob + rng.normal(0, 0.5, length), rng.normal(0, 2)))
    return documents


def pack(documents, padding=0):
    """Return the arguments of the loss; NaN and infinities stand where nothing is trained."""
    odd = itertools.cycle((math.nan, math.inf, -math.inf))

    def column(pick):
        values = [np.where(d[0], pick(d), [next(odd) for _ in d[0]]) for d in documents]
        return torch.tensor(np.concatenate([*values, np.full(padding, math.nan)]), dtype=torch.float64)

    mask = torch.tensor(np.concatenate([*(d[0] for d in documents), np.zeros(padding, bool)])).float()
    lengths = [len(d[0]) for d in documents] + [padding] * (padding > 0)
    extras = {"reference_logprobs": column(lambda d: d[2]), "rewards": column(lambda d: d[3])}
    spans = Documents(torch.repeat_interleave(torch.tensor(lengths)), len(lengths), lambda sums: sums)
    return column(lambda d: d[1]).requires_grad_(), mask, spans, extras


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def kl(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def expected(documents, config):
    """Return the loss and its derivative by each token's log-prob, the pair's by central differences of h."""
    total, slopes = 0.0, []
    for chosen, rejected in zip(documents[::2], documents[1::2], strict=True):
        counts = [int(d[0].sum()) for d in (chosen, rejected)]
        size = [n if config.average else 1 for n in counts]
        ratio = [(d[1] - d[2])[d[0]].sum() / n for d, n in zip((chosen, rejected), size, strict=True)]
        gap = config.eta * (chosen[3] - rejected[3])

        def loss(h, gap=gap):
            a = config.beta * h
            return {
                "dpo": lambda: -math.log(sigmoid(a - gap * config.margin)),
                "ipo": lambda: (h - 0.5 / config.beta) ** 2,
                "rpo_bwd_kl": lambda: kl(sigmoid(gap), sigmoid(a)),
                "rpo_fwd_kl": lambda: kl(sigmoid(a), sigmoid(gap)),
                "rpo_sq": lambda: (a - gap) ** 2,
            }[config.form]()

        h = ratio[0] - ratio[1]
        slope = (loss(h + 1e-5) - loss(h - 1e-5)) / 2e-5
        total += loss(h) - config.sft_weight * chosen[1][chosen[0]].sum() / size[0]
        slopes += [np.where(chosen[0], (slope - config.sft_weight) / size[0], 0)]
        slopes += [np.where(rejected[0], -slope / size[1], 0)]
    return total, np.concatenate(slopes)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_equals_the_formula_with_its_gradient_whatever_stands_where_nothing_is_trained(number):
    config, documents = CASES[number], draw_pairs(number)
    logprob, *rest = pack(documents, padding=3)
    output = preference_loss(logprob, *rest, config)
    output.loss_sum.backward()
    total, slopes = expected(documents, config)
    assert output.loss_sum.item() == pytest.approx(total, rel=1e-9)
    np.testing.assert_allclose(logprob.grad.numpy()[:-3], slopes, rtol=1e-6, atol=1e-8)
    assert not logprob.grad[-3:].any()
    assert all(torch.isfinite(value).all() for value in output.metrics.values())


def test_any_split_into_micro_batches_gives_the_same_sum_and_count():
    documents, config = draw_pairs(7, count=6), PreferenceLossConfig(form="rpo_bwd_kl", sft_weight=0.1)
    whole = preference_loss(*pack(documents), config)
    parts = [
        preference_loss(*pack(documents[i:j], padding=p), config) for i, j, p in ((0, 2, 0), (2, 10, 5), (10, 12, 1))
    ]
    assert sum(part.loss_sum.item() for part in parts) == pytest.approx(whole.loss_sum.item(), rel=1e-12)
    for name, value in whole.metrics.items():
        torch.testing.assert_close(sum(part.metrics[name] for part in parts), value)
    assert whole.metrics["accuracy"][1] == 6


def test_a_policy_that_is_the_reference_has_no_gap_and_the_loss_of_a_coin():
    documents = [(mask, reference, reference, reward) for mask, _, reference, reward in draw_pairs(3)]
    output = preference_loss(*pack(documents), PreferenceLossConfig(beta=0.5))
    assert output.loss_sum.item() == 5 * math.log(2)
    assert output.metrics["margin"].tolist() == [0.0, 5.0]
    assert output.metrics["accuracy"].tolist() == [2.5, 5.0]


def test_rpo_wants_the_reward_gap_and_no_more_while_dpo_never_has_enough():
    """At a = b the published RPO (the gap is the measure) has its minimum 0; DPO's slope is negative everywhere."""
    mask, zero = np.array([True, False]), np.zeros(2)
    for gap in (0.5, 2.0):
        slopes = {}
        for policy in (gap - 0.3, gap, gap + 0.3):
            pair = [(mask, np.array([policy, 0.0]), zero, gap), (mask, zero, zero, 0.0)]
            for form in ("rpo_bwd_kl", "dpo"):
                logprob, *rest = pack(pair)
                preference_loss(logprob, *rest, PreferenceLossConfig(form=form, beta=1.0)).loss_sum.backward()
                slopes[form, round(policy - gap, 1)] = logprob.grad[0].item()
        assert slopes["rpo_bwd_kl", -0.3] < 0 < slopes["rpo_bwd_kl", 0.3]
        assert slopes["rpo_bwd_kl", 0.0] == pytest.approx(0, abs=1e-12)
        # KL(p || q)'s derivative by q's logit is q - p.
        assert slopes["rpo_bwd_kl", 0.3] == pytest.approx(sigmoid(gap + 0.3) - sigmoid(gap))
        assert max(slopes["dpo", d] for d in (-0.3, 0.0, 0.3)) < 0


def test_stays_finite_at_gaps_whose_probabilities_underflow():
    mask, zero = np.array([True, False]), np.zeros(2)
    for form, margin in FORMS:
        pairs = [(mask, np.array([p, 0.0]), zero, r) for p, r in ((900.0, -900.0), (-900.0, 900.0))]
        logprob, *rest = pack(pairs)
        output = preference_loss(logprob, *rest, PreferenceLossConfig(form=form, margin=margin, beta=1.0))
        output.loss_sum.backward()
        assert math.isfinite(output.loss_sum.item())
        assert torch.isfinite(logprob.grad).all()


def test_pairs_are_counted_by_documents_with_a_trained_token():
    documents = draw_pairs(1, count=4)
    _, mask, _, _ = pack(documents, padding=2)
    boundaries = np.cumsum([0, *(len(d[0]) for d in documents), 2]).astype(np.int32)
    assert count_units(PackedBatch(np.zeros(len(mask), np.int32), mask.numpy(), boundaries), "pair") == 4
