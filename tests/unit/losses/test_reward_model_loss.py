"""Bradley-Terry and regression against their formulas, in float64, gradient included."""

import numpy as np
import pytest
import torch

from nemo_cascade.losses.reward_model import bradley_terry_loss, regression_loss
from nemo_cascade.losses.units import count_units
from nemo_cascade.types import PackedBatch
from tests.support.tiny_policy import make_pairs


@pytest.mark.parametrize("form", ["plain", "margin", "scaled"])
@pytest.mark.parametrize("seed", range(20))
def test_equals_the_formula_written_in_float64_with_its_gradient(form, seed):
    rng = np.random.default_rng(seed)
    chosen, rejected, strength = rng.normal(size=7) * 3, rng.normal(size=7) * 3, rng.integers(1, 4, 7).astype(float)
    shift, scale = strength * (form == "margin"), strength if form == "scaled" else np.ones(7)
    probability = np.exp(chosen - shift) / (np.exp(chosen - shift) + np.exp(rejected))
    tensors = [torch.tensor(values, dtype=torch.float32, requires_grad=True) for values in (chosen, rejected)]
    output = bradley_terry_loss(*tensors, None if form == "plain" else torch.tensor(strength), form)
    output.loss_sum.backward()
    assert output.loss_sum.item() == pytest.approx(-(scale * np.log(probability)).sum(), rel=1e-5)
    # d(-log p)/d r_chosen = p - 1, and the opposite for the rejected response.
    np.testing.assert_allclose(tensors[0].grad.numpy(), scale * (probability - 1), atol=1e-5)
    np.testing.assert_allclose(tensors[1].grad.numpy(), scale * (1 - probability), atol=1e-5)
    metrics = {name: total / count for name, (total, count) in output.metrics.items()}
    assert metrics["accuracy"] == pytest.approx(float((chosen > rejected).mean()))
    assert metrics["margin"] == pytest.approx(float((chosen - rejected).mean()), rel=1e-5)


def test_stays_finite_where_the_probability_underflows_and_a_tie_is_half_right():
    output = bradley_terry_loss(torch.tensor([-500.0, 500.0, 1.0]), torch.tensor([500.0, -500.0, 1.0]))
    assert output.loss_sum.item() == pytest.approx(1000 + np.log(2))
    assert output.metrics["accuracy"].tolist() == [1.5, 3.0]


def test_a_pair_is_the_unit_that_the_loss_is_divided_by():
    assert count_units(make_pairs([(5, 9), (7, 3), (4, 4)], seed=0), "pair") == 3


@pytest.mark.parametrize("seed", range(60))
def test_regression_equals_the_loop_over_ratings_whatever_stands_for_those_that_are_missing(seed):
    rng = np.random.default_rng(seed)
    documents, attributes = int(rng.integers(1, 9)), int(rng.integers(1, 10))
    names = [f"a{k}" for k in range(attributes)]
    predicted, rated = rng.normal(2, 2, (documents, attributes)), rng.uniform(0, 4, (documents, attributes))
    rated[rng.random(rated.shape) < 0.4] = np.nan
    predicted[np.isnan(rated) & (rng.random(rated.shape) < 0.5)] = np.nan
    total, count, slopes = 0.0, 0, np.zeros(rated.shape)
    for d, k in np.ndindex(rated.shape):
        if not np.isnan(rated[d, k]):
            total, count = total + (predicted[d, k] - rated[d, k]) ** 2, count + 1
            slopes[d, k] = 2 * (predicted[d, k] - rated[d, k])
    tensor = torch.tensor(predicted, requires_grad=True)
    output = regression_loss(tensor, torch.tensor(rated), names)
    output.loss_sum.backward()
    assert output.loss_sum.item() == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(tensor.grad.numpy(), slopes, rtol=1e-12)
    assert output.metrics["error"].tolist() == pytest.approx([total, count])
    by_name = [output.metrics[f"error_{name}"] for name in names]
    torch.testing.assert_close(sum(by_name), output.metrics["error"])
    # The same in parts.
    half = documents // 2
    parts = [
        regression_loss(torch.tensor(predicted[s]), torch.tensor(rated[s]), names)
        for s in (slice(half), slice(half, None))
    ]
    assert sum(part.loss_sum.item() for part in parts) == pytest.approx(total, rel=1e-12)


def test_ratings_are_counted_where_a_score_is_read_and_one_is_there():
    nan = np.nan
    mask = np.array([0, 1, 0, 0, 1, 0], np.float32)
    ratings = {"rating_a": np.array([nan, 2, nan, 1, nan, 1]), "rating_b": np.array([0, 0, nan, nan, 3, nan])}
    batch = PackedBatch(np.zeros(6, np.int32), mask, np.array([0, 3, 6], np.int32), ratings)
    assert count_units(batch, "rating") == 3
