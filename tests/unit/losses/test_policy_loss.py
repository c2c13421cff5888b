"""The policy loss and its gradient against a float64 reference: a plain loop over tokens, written from the formulas."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.errors import TrainingError
from nemo_cascade.losses.correction import Documents
from nemo_cascade.losses.policy import policy_loss
from nemo_cascade.losses.units import count_units
from nemo_cascade.types import PackedBatch

CORRECTION_BOUNDS = {
    "none": (0.0, 2.0),
    "uncapped": (0.0, 2.0),
    "truncated": (0.7, 1.2),
    "icepop": (0.7, 1.2),
    "sequence_mask": (0.85, 1.15),
}


def documents(seed, count=7):
    """Draw documents: prompt tokens untrained, now and then a response with a hole, one without any trained token."""
    rng = np.random.default_rng(seed)
    drawn = []
    for d in range(count):
        length = int(rng.integers(4, 12))
        mask = np.zeros(length)
        if d != 3:
            mask[int(rng.integers(1, 3)) : length - 1] = 1
            mask[int(rng.integers(2, length - 1))] = float(rng.random() < 0.5)
            mask[1 + int(mask[1] == 0)] = 1
        logprob = rng.normal(-1.5, 0.5, length)
        drawn.append(
            SimpleNamespace(
                mask=mask,
                advantage=float(rng.choice([-1.3, 0.0, 0.9])),
                logprob=logprob,
                entropy=rng.random(length),
                behaviour=logprob + rng.normal(0, 0.2, length) + rng.normal(0, 0.1),
                previous=logprob + rng.normal(0, 0.3, length),
                reference=logprob + rng.normal(0, 0.4, length),
            )
        )
    return drawn


def pack(docs, *, previous, reference, dtype=torch.float64):
    """Return (logprob, entropy, inputs) with gradients on; untrained positions hold what must never be read."""

    def join(name, poison=None):
        values = np.concatenate([getattr(d, name) for d in docs])
        if poison is not None:
            values = np.where(np.concatenate([d.mask for d in docs]) > 0, values, poison)
        return torch.tensor(values, dtype=dtype)

    lengths = [len(d.mask) for d in docs]
    expand = [np.full(n, d.advantage) for n, d in zip(lengths, docs, strict=True)]
    weights = [np.full(n, 1 / max(d.mask.sum(), 1)) for n, d in zip(lengths, docs, strict=True)]
    extras = {
        "advantages": torch.tensor(np.concatenate(expand), dtype=dtype),
        "behaviour_logprobs": join("behaviour", poison=-math.inf),
        "sequence_weights": torch.tensor(np.concatenate(weights), dtype=dtype),
    }
    if previous:
        extras["previous_logprobs"] = join("previous", poison=math.nan)
    if reference:
        extras["reference_logprobs"] = join("reference", poison=math.inf)
    inputs = (join("mask"), on_one_rank(lengths), extras)
    return join("logprob", poison=-1e30).requires_grad_(), join("entropy").requires_grad_(), inputs


def on_one_rank(lengths):
    """Return the documents of a pack that no other rank holds a share of."""
    return Documents(torch.repeat_interleave(torch.tensor(lengths)), len(lengths), lambda sums: sums)


def reference_loss(docs, config, *, previous, reference):
    """Return loss, d loss / d logprob, d loss / d entropy and the metrics' (sum, count), token by token."""
    low, high = config.correction_min, config.correction_max
    loss, d_logprob, d_entropy = 0.0, [], []
    sums = dict.fromkeys(
        (
            *("entropy", "clip", "dual", "kl_reference", "kl_bounded", "kl_engine", "difference", "weight", "touched"),
            *("count", "max"),
        ),
        0.0,
    )
    for d in docs:
        trained = [t for t in range(len(d.mask)) if d.mask[t]]
        trainer = d.previous if previous else d.logprob
        ratios = [trainer[t] - d.behaviour[t] for t in trained]
        geometric = math.exp(sum(ratios) / len(ratios)) if ratios else 1.0
        for t in range(len(d.mask)):
            if not d.mask[t]:
                d_logprob.append(0.0)
                d_entropy.append(0.0)
                continue
            share = 1.0 if config.aggregation == "token" else 1 / len(trained)
            gap = trainer[t] - d.behaviour[t]
            raw = math.exp(gap)
            weight = {
                "none": 1.0,
                "uncapped": raw,
                "truncated": min(max(raw, low), high),
                "icepop": raw if low <= raw <= high else 0.0,
                "sequence_mask": raw if low <= geometric <= high else 0.0,
            }[config.correction]
            rho = math.exp(d.logprob[t] - d.previous[t]) if previous else 1.0
            bound = min(max(rho, 1 - config.clip_ratio_low), 1 + config.clip_ratio_high) if previous else rho
            free, clipped = -d.advantage * rho, -d.advantage * bound
            value, slope = max(free, clipped), free if free >= clipped else 0.0
            if previous and config.clip_dual and d.advantage < 0 and value > -d.advantage * config.clip_dual:
                value, slope = -d.advantage * config.clip_dual, 0.0
                sums["dual"] += 1
            value, slope = weight * value, weight * slope
            if reference:
                gap_reference = d.reference[t] - d.logprob[t]
                k3, k3_slope = math.exp(gap_reference) - 1 - gap_reference, 1 - math.exp(gap_reference)
                sums["kl_reference"] += k3
                if config.kl_max and k3 > config.kl_max:
                    k3, k3_slope = config.kl_max, 0.0
                    sums["kl_bounded"] += 1
                share_of_kl = math.exp(d.logprob[t] - d.behaviour[t]) if config.kl_correction else 1.0
                value += config.kl_coefficient * share_of_kl * k3
                # The weight's own derivative is the weight.
                weighted = k3 if config.kl_gradient == "weighted" else 0.0
                slope += config.kl_coefficient * share_of_kl * (weighted + k3_slope)
            value -= config.entropy_coefficient * d.entropy[t]
            loss += share * value
            d_logprob.append(share * slope)
            d_entropy.append(-share * config.entropy_coefficient)
            sums["count"] += 1
            sums["entropy"] += d.entropy[t]
            sums["clip"] += clipped > free
            sums["kl_engine"] += raw - 1 - gap
            sums["difference"] += abs(gap)
            sums["weight"] += raw
            sums["touched"] += weight != raw
            sums["max"] = max(sums["max"], abs(gap))
    return loss, d_logprob, d_entropy, sums


VARIANTS = list(itertools.product(CORRECTION_BOUNDS, ("token", "sequence"), (False, True), (0.0, 0.03), (0.0, 0.01)))


@pytest.mark.parametrize(("correction", "aggregation", "previous", "kl", "entropy"), VARIANTS)
def test_loss_gradient_and_metrics_equal_the_reference(correction, aggregation, previous, kl, entropy):
    low, high = CORRECTION_BOUNDS[correction]
    config = PolicyLossConfig(
        aggregation=aggregation,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
        correction=correction,
        correction_min=low,
        correction_max=high,
        kl_coefficient=kl,
        entropy_coefficient=entropy,
    )
    docs = documents(seed=4, count=12)
    logprob, entropies, inputs = pack(docs, previous=previous, reference=kl > 0)
    output = policy_loss(logprob, entropies, *inputs, config)
    output.loss_sum.backward()
    loss, d_logprob, d_entropy, sums = reference_loss(docs, config, previous=previous, reference=kl > 0)
    torch.testing.assert_close(output.loss_sum.item(), loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logprob.grad, torch.tensor(d_logprob, dtype=torch.float64), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(entropies.grad, torch.tensor(d_entropy, dtype=torch.float64), rtol=1e-11, atol=1e-13)
    expected = {
        "entropy": sums["entropy"],
        "logprob_difference_mean": sums["difference"],
        "importance_weight": sums["weight"],
        "kl_engine": sums["kl_engine"],
        **({"clip_fraction": sums["clip"]} if previous else {}),
        **({"kl_reference": sums["kl_reference"]} if kl > 0 else {}),
        **({"correction_fraction": sums["touched"]} if correction != "none" else {}),
    }
    assert set(output.metrics) == set(expected)
    for name, value in expected.items():
        assert output.metrics[name].tolist() == pytest.approx([value, sums["count"]], rel=1e-10)
    assert output.maxima["logprob_difference_max"].item() == pytest.approx(sums["max"], rel=1e-12)
    # The drawn data must reach both sides of every switch, or the comparison proves nothing.
    if previous:
        assert 0 < sums["clip"] < sums["count"]
    if correction not in ("none", "uncapped"):
        assert 0 < sums["touched"] < sums["count"]


RECIPES = {
    # Nemotron 3 Nano's policy loss (NeMo-RL's names in brackets): raw weight, asymmetric clip, no KL.
    "nano3": {"clip_ratio_high": 0.28, "correction": "uncapped"},
    # MOPD and the later recipes: tis clamp to [0.2, 5].
    "later": {"clip_ratio_high": 0.28, "correction": "truncated", "correction_min": 0.2, "correction_max": 5.0},
    # Super's RLHF, KL over the engine's samples (use_on_policy_kl_approximation), before and since June 2026.
    "super_rlhf": {"correction": "uncapped", "kl_coefficient": 1e-4, "kl_correction": True},
    "super_rlhf_weighted": {
        "correction": "uncapped",
        "kl_coefficient": 1e-4,
        "kl_correction": True,
        "kl_gradient": "weighted",
    },
    # Cascade 2's RLHF, both readings.
    "cascade2_rlhf": {"kl_coefficient": 0.03},
    "cascade2_rlhf_weighted": {"kl_coefficient": 0.03, "kl_gradient": "weighted"},
    # Cascade 1's kit for small reward models, as verl computes it: dual clip, bounded k3.
    "cascade1_kit": {"aggregation": "sequence", "kl_coefficient": 1e-3, "kl_max": 0.1, "clip_dual": 1.2},
}


@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_settings_give_value_and_gradient_of_their_formulas(recipe, previous):
    config = PolicyLossConfig(**RECIPES[recipe])
    docs = documents(seed=8, count=16)
    kl = config.kl_coefficient > 0
    logprob, entropies, inputs = pack(docs, previous=previous, reference=kl)
    output = policy_loss(logprob, entropies, *inputs, config)
    output.loss_sum.backward()
    loss, d_logprob, _, sums = reference_loss(docs, config, previous=previous, reference=kl)
    torch.testing.assert_close(output.loss_sum.item(), loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logprob.grad, torch.tensor(d_logprob, dtype=torch.float64), rtol=1e-11, atol=1e-13)
    if config.kl_max is not None:
        assert 0 < sums["kl_bounded"] < sums["count"]
    if config.clip_dual is not None and previous:
        assert 0 < sums["dual"] < sums["count"]


@pytest.mark.parametrize(("gradient", "swapped"), [("plain", True), ("weighted", False)])
@pytest.mark.parametrize("corrected", [False, True])
def test_the_kl_gradient_is_that_of_the_divergence_which_its_docstring_names(gradient, swapped, corrected):
    """Over all outcomes of a categorical policy, each with its probability, not over samples."""
    generator = torch.Generator().manual_seed(3)
    policy, reference, engine = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(3))
    policy.requires_grad_()
    logp, logq = policy.log_softmax(0), reference.log_softmax(0)
    one, other = (logq, logp) if swapped else (logp, logq)
    divergence = (one.exp() * (one - other)).sum()
    (expected,) = torch.autograd.grad(divergence, policy, retain_graph=True)
    # Corrected, outcomes come from an engine that is somewhat off; the weight makes up for it.
    drawn_from = engine.log_softmax(0) if corrected else logp.detach()
    gradients = []
    for outcome in range(7):
        config = PolicyLossConfig(kl_coefficient=1.0, kl_gradient=gradient, kl_correction=corrected)
        extras = {
            "advantages": torch.zeros(1),
            "behaviour_logprobs": drawn_from[outcome : outcome + 1],
            "reference_logprobs": logq[outcome : outcome + 1],
        }
        loss = policy_loss(logp[outcome : outcome + 1], None, *pack_of(1), extras, config).loss_sum
        gradients.append(drawn_from[outcome].exp() * torch.autograd.grad(loss, policy, retain_graph=True)[0])
    torch.testing.assert_close(sum(gradients), expected, rtol=1e-10, atol=1e-12)


def test_an_absurd_log_ratio_stays_finite_in_float32():
    one, tensors = torch.tensor([0.0, 0.0, -1.0], requires_grad=True), torch.tensor([-95.0, -95.0, -1.0])
    advantages = torch.tensor([0.0, 1.0, 1.0])
    earlier = {"advantages": advantages, "previous_logprobs": tensors}
    output = policy_loss(one, None, *pack_of(3), earlier, PolicyLossConfig())
    output.loss_sum.backward()
    assert output.loss_sum.isfinite()
    assert one.grad.tolist() == [0.0, 0.0, -1.0]
    engine, truncated = (
        {"advantages": advantages, "behaviour_logprobs": tensors},
        PolicyLossConfig(correction="truncated"),
    )
    assert policy_loss(one, None, *pack_of(3), engine, truncated).metrics["importance_weight"].isfinite().all()


@pytest.mark.parametrize("correction", CORRECTION_BOUNDS)
def test_float32_agrees_with_the_reference(correction):
    low, high = CORRECTION_BOUNDS[correction]
    config = PolicyLossConfig(correction=correction, correction_min=low, correction_max=high, kl_coefficient=0.1)
    docs = documents(seed=99)
    logprob, entropies, inputs = pack(docs, previous=True, reference=True, dtype=torch.float32)
    output = policy_loss(logprob, entropies, *inputs, config)
    output.loss_sum.backward()
    loss, d_logprob, _, _ = reference_loss(docs, config, previous=True, reference=True)
    assert output.loss_sum.item() == pytest.approx(loss, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(logprob.grad, torch.tensor(d_logprob, dtype=torch.float32), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_any_split_into_micro_batches_gives_the_same_gradient(aggregation):
    config = PolicyLossConfig(
        aggregation=aggregation, correction="sequence_mask", correction_min=0.9, correction_max=1.1, kl_coefficient=0.03
    )
    docs = documents(seed=5, count=9)

    def run(split):
        gradients, loss, units, metrics = [], 0.0, 0, {}
        for part in split:
            logprob, entropy, inputs = pack([docs[i] for i in part], previous=True, reference=True)
            output = policy_loss(logprob, entropy, *inputs, config)
            output.loss_sum.backward()
            units += count_units(as_batch(*inputs), aggregation)
            loss += output.loss_sum.item()
            gradients += zip(part, logprob.grad.split([len(docs[i].mask) for i in part]), strict=True)
            metrics = {name: metrics.get(name, 0) + value for name, value in output.metrics.items()}
        ordered = torch.cat([gradient for _, gradient in sorted(gradients, key=lambda pair: pair[0])])
        return loss / units, ordered / units, torch.stack([metrics[name] for name in sorted(metrics)])

    whole = run([range(9)])
    for split in ([[0, 1, 2], [3, 4, 5, 6, 7, 8]], [[i] for i in range(9)], [[8, 3], [1, 0, 6, 7], [4, 2, 5]]):
        for one, other in zip(whole, run(split), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def pack_of(tokens):
    """Return mask and documents of one document, all of it trained."""
    return torch.ones(tokens), on_one_rank([tokens])


def as_batch(mask, documents, _):
    """Return the numpy batch that the normaliser counts."""
    boundaries = np.searchsorted(documents.of_token_T, np.arange(documents.count + 1))
    return PackedBatch(np.zeros(len(mask), np.int32), mask.numpy().astype(np.float32), boundaries)


def test_units_count_trained_tokens_or_responses():
    docs = documents(seed=1)
    _, _, inputs = pack(docs, previous=False, reference=False)
    batch = as_batch(*inputs)
    assert count_units(batch, "token") == sum(int(d.mask.sum()) for d in docs)
    assert count_units(batch, "sequence") == sum(bool(d.mask.any()) for d in docs) == len(docs) - 1


def test_a_response_split_over_ranks_is_masked_as_a_whole():
    config = PolicyLossConfig(correction="sequence_mask", correction_min=0.95, correction_max=1.06)
    docs = documents(seed=11)
    logprob, entropy, (mask, of_pack, extras) = pack(docs, previous=False, reference=False)
    whole = policy_loss(logprob, entropy, mask, of_pack, extras, config)
    assert 0 < whole.metrics["correction_fraction"][0] < whole.metrics["correction_fraction"][1]
    shares = [torch.arange(mask.numel()) % 2 == rank for rank in range(2)]

    def run(rank, reduce):
        kept = shares[rank]
        of_share = Documents(of_pack.of_token_T[kept], of_pack.count, reduce)
        own = {name: values[kept] for name, values in extras.items()}
        return policy_loss(logprob[kept], entropy[kept], mask[kept], of_share, own, config)

    seen = []
    for rank in range(2):
        run(rank, lambda sums: seen.append(sums) or sums)
    total = seen[0] + seen[1]
    parts = [run(rank, lambda _: total) for rank in range(2)]
    assert sum(p.loss_sum.item() for p in parts) == pytest.approx(whole.loss_sum.item(), rel=1e-12)
    for name, value in whole.metrics.items():
        torch.testing.assert_close(sum(p.metrics[name] for p in parts), value)


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"correction": "icepop"}, "behaviour_logprobs"),
        ({"kl_coefficient": 0.1}, "reference_logprobs"),
        ({"aggregation": "sequence"}, "sequence_weights"),
        ({"entropy_coefficient": 0.1}, "entropy"),
    ],
)
def test_a_missing_input_is_refused_by_name(config, missing):
    with pytest.raises(TrainingError, match=missing):
        policy_loss(torch.zeros(4), None, *pack_of(4), {"advantages": torch.ones(4)}, PolicyLossConfig(**config))


def test_unknown_or_absent_extras_are_refused():
    with pytest.raises(TrainingError, match="advantage_s"):
        policy_loss(torch.zeros(2), None, *pack_of(2), {"advantage_s": torch.ones(2)}, PolicyLossConfig())
    with pytest.raises(TrainingError, match="needs `advantages`"):
        policy_loss(torch.zeros(2), None, *pack_of(2), {}, PolicyLossConfig())
