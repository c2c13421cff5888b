"""Bradley-Terry against its formula, in float64, gradient included."""

import numpy as np
import pytest
import torch

from nemo_cascade.losses.preference import bradley_terry_loss
from nemo_cascade.losses.units import count_units
from tests.support.tiny_policy import make_pairs


def test_equals_the_formula_written_in_float64_with_its_gradient():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(size=7) * 3, rng.normal(size=7) * 3
    probability = np.exp(chosen) / (np.exp(chosen) + np.exp(rejected))
    tensors = [torch.tensor(values, dtype=torch.float32, requires_grad=True) for values in (chosen, rejected)]
    output = bradley_terry_loss(*tensors)
    output.loss_sum.backward()
    assert output.loss_sum.item() == pytest.approx(-np.log(probability).sum(), rel=1e-6)
    # d(-log p)/d r_chosen = p - 1, and the opposite for the rejected response.
    np.testing.assert_allclose(tensors[0].grad.numpy(), probability - 1, atol=1e-6)
    np.testing.assert_allclose(tensors[1].grad.numpy(), 1 - probability, atol=1e-6)
    metrics = {name: total / count for name, (total, count) in output.metrics.items()}
    assert metrics["accuracy"] == pytest.approx(float((chosen > rejected).mean()))
    assert metrics["margin"] == pytest.approx(float((chosen - rejected).mean()), rel=1e-6)


def test_stays_finite_where_the_probability_underflows_and_a_tie_is_half_right():
    output = bradley_terry_loss(torch.tensor([-500.0, 500.0, 1.0]), torch.tensor([500.0, -500.0, 1.0]))
    assert output.loss_sum.item() == pytest.approx(1000 + np.log(2))
    assert output.metrics["accuracy"].tolist() == [1.5, 3.0]


def test_a_pair_is_the_unit_that_the_loss_is_divided_by():
    assert count_units(make_pairs([(5, 9), (7, 3), (4, 4)], seed=0), "pair") == 3
