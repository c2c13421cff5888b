"""KL(teacher || student) on logits against float64: values and gradients, by blocks, and what untrained tokens hold."""

from types import SimpleNamespace

import pytest
import torch

from nemo_cascade.config.stages.policy_loss import LogitTeacherConfig
from nemo_cascade.losses.distillation import LogitDistillation
from nemo_cascade.models.axes import Axis
from nemo_cascade.training.logit_kl import forward_kl
from nemo_cascade.training.precision import Padding
from nemo_cascade.training.scoring.scored import LastStates, Scoring
from nemo_cascade.training.step import Teacher, loss_of

VOCAB, ROWS = 33, 40


def drawn(tokens=11, seed=0):
    """Return hidden states and output layers of a student and of a wider teacher, whose padding would dominate."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(tokens, 24, generator=generator), torch.randn(ROWS, 24, generator=generator)
    teacher = torch.randn(tokens, 32, generator=generator), torch.randn(ROWS, 32, generator=generator)
    student[1][VOCAB:], teacher[1][VOCAB:] = 1e4, -1e4
    return *student, *teacher


def exact(hidden, weight, teacher, teacher_weight, temperature):
    q = torch.log_softmax(hidden.double() @ weight[:VOCAB].double().t() / temperature, -1)
    p = torch.log_softmax(teacher.double() @ teacher_weight[:VOCAB].double().t() / temperature, -1)
    return (p.exp() * (p - q)).sum(-1), q


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_values_and_gradients_match_float64_and_padding_takes_no_part(block, temperature):
    raw, matrix, taught, theirs = drawn()
    up = torch.randn(11, generator=torch.Generator().manual_seed(1))
    hidden, weight = raw.clone().requires_grad_(), matrix.clone().requires_grad_()
    found = forward_kl(hidden, weight, taught, theirs, vocab_size=VOCAB, temperature=temperature, block_tokens=block)
    (found * up).sum().backward()
    wide = raw.double().requires_grad_(), matrix.double().requires_grad_()
    wanted, _ = exact(*wide, taught, theirs, temperature)
    (wanted * up).sum().backward()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    for ours, reference in zip((hidden, weight), wide, strict=True):
        torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-4, atol=2e-5)
    assert weight.grad[VOCAB:].abs().max() == 0


@pytest.mark.parametrize("block", [None, 4])
def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(block):
    raw, matrix, _, _ = drawn()
    hidden, weight = raw.clone().requires_grad_(), matrix.clone().requires_grad_()
    found = forward_kl(hidden, weight, raw, matrix, vocab_size=VOCAB, block_tokens=block)
    found.sum().backward()
    assert found.abs().max() == 0
    assert hidden.grad.abs().max() == 0
    assert weight.grad.abs().max() == 0


def test_in_bf16_the_weights_gradient_is_added_up_in_fp32_over_the_blocks():
    raw, matrix, taught, theirs = (tensor.bfloat16() for tensor in drawn(512, seed=1))
    grads = []
    for block in (512, 2):
        hidden, weight = raw.clone().requires_grad_(), matrix.clone().requires_grad_()
        forward_kl(hidden, weight, taught, theirs, vocab_size=VOCAB, block_tokens=block).sum().backward()
        grads.append(weight.grad)
    wide = raw.double(), matrix.double().requires_grad_()
    exact(*wide, taught, theirs, 1.0)[0].sum().backward()
    for found in grads:
        error = (found.double() - wide[1].grad).norm() / wide[1].grad.norm()
        assert error < 6e-3  # that of one block; added up in bf16, it would be 1.3e-2


@pytest.mark.parametrize(("temperature", "mixed"), [(1.0, 0.0), (2.0, 0.0), (2.0, 0.3)])
def test_the_loss_is_the_formulas_and_what_untrained_tokens_hold_is_ignored(temperature, mixed):
    raw, matrix, taught, theirs = drawn()
    mask = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0]).float()
    labels = torch.arange(11) * 3
    on = mask > 0
    broken, theirs_broken = raw.clone(), taught.clone()
    broken[~on], theirs_broken[~on] = float("nan"), float("nan")
    hidden, weight = broken.requires_grad_(), matrix.clone().requires_grad_()
    batch = SimpleNamespace(loss_mask=mask, labels=labels, number=1)
    axes = dict.fromkeys(("tp", "cp"), Axis(0, 1, None, (0,)))
    said = LastStates(theirs_broken[None, on], theirs)
    teacher = Teacher([], Padding(), axes["cp"], [LastStates(said.hidden_1TH * 0, theirs), said])
    config = LogitTeacherConfig(model="start", temperature=temperature, cross_entropy_weight=mixed)
    loss = loss_of(LogitDistillation(config, "folder"), Scoring(VOCAB, 1.0, Padding(), axes), teacher=teacher)
    output = loss(LastStates(hidden[None], weight), batch)
    output.loss_sum.backward()

    wide = raw.double().requires_grad_(), matrix.double().requires_grad_()
    kl, _ = exact(*wide, taught, theirs, temperature)
    _, log_q = exact(*wide, taught, theirs, 1.0)
    wanted = temperature**2 * kl[on].sum() - mixed * log_q.gather(1, labels[:, None])[on, 0].sum()
    wanted.backward()
    torch.testing.assert_close(output.loss_sum.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), wide[0].grad, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(weight.grad.double(), wide[1].grad, rtol=1e-4, atol=5e-5)
    torch.testing.assert_close(output.metrics["forward_kl"], torch.stack([kl[on].sum(), on.sum()]).double())
    assert ("cross_entropy" in output.metrics) == (mixed > 0)
