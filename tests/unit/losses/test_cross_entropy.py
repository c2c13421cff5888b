"""Cross entropy against its formula."""

import math

import pytest
import torch

from nemo_cascade.losses.cross_entropy import cross_entropy_loss


def test_sums_the_trained_labels_only_with_gradient_minus_one():
    logprob = torch.tensor([-0.5, -math.inf, -2.0, math.nan, -1.0], dtype=torch.float64, requires_grad=True)
    output = cross_entropy_loss(logprob, torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]))
    output.loss_sum.backward()
    assert output.loss_sum.item() == 2.5
    assert output.metrics["cross_entropy"].tolist() == [2.5, 2.0]
    assert logprob.grad.tolist() == [-1.0, 0.0, -1.0, 0.0, 0.0]


def test_a_trained_label_without_probability_gives_an_infinite_loss_not_a_hidden_one():
    output = cross_entropy_loss(torch.tensor([-1.0, -math.inf]), torch.ones(2))
    assert output.loss_sum.item() == pytest.approx(math.inf)
