import pytest
import torch

from nemo_cascade.training.logprobs import label_logprobs


def _reference(hidden, weight, labels, vocab, temperature):
    logp = torch.log_softmax(hidden.double() @ weight[:vocab].double().t() / temperature, -1)
    return logp.gather(1, labels[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_match_float64_and_padding_takes_no_part(block, temperature):
    generator = torch.Generator().manual_seed(0)
    raw, matrix = torch.randn(11, 24, generator=generator), torch.randn(40, 24, generator=generator)
    matrix[33:] = 1e4  # padded rows would dominate the softmax
    labels = torch.randint(0, 33, (11,), generator=generator)
    up_logprob, up_entropy = torch.randn(2, 11, generator=generator)

    hidden, weight = raw.clone().requires_grad_(), matrix.clone().requires_grad_()
    logprob, entropy = label_logprobs(
        hidden, weight, labels, vocab_size=33, temperature=temperature, block_tokens=block
    )
    (logprob * up_logprob + entropy * up_entropy).sum().backward()

    exact = raw.double().requires_grad_(), matrix.double().requires_grad_()
    want_logprob, want_entropy = _reference(*exact, labels, 33, temperature)
    (want_logprob * up_logprob + want_entropy * up_entropy).sum().backward()
    torch.testing.assert_close(logprob.double(), want_logprob, rtol=1e-6, atol=5e-6)
    torch.testing.assert_close(entropy.double(), want_entropy, rtol=1e-5, atol=5e-6)
    for found, wanted in zip((hidden, weight), exact, strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=1e-4, atol=2e-5)
    assert weight.grad[33:].abs().max() == 0


def test_in_bf16_the_weights_gradient_is_added_up_in_fp32_over_the_blocks():
    generator = torch.Generator().manual_seed(1)
    raw, matrix = (torch.randn(n, 16, generator=generator).bfloat16() for n in (512, 50))
    labels = torch.arange(512) % 50
    grads = []
    for block in (512, 2):
        hidden, weight = raw.clone().requires_grad_(), matrix.clone().requires_grad_()
        label_logprobs(hidden, weight, labels, vocab_size=50, block_tokens=block)[0].sum().backward()
        grads.append((hidden.grad, weight.grad))
    exact = raw.double(), matrix.double().requires_grad_()
    _reference(*exact, labels, 50, 1.0)[0].sum().backward()
    for found in grads:
        error = (found[1].double() - exact[1].grad).norm() / exact[1].grad.norm()
        assert error < 4e-3
    torch.testing.assert_close(grads[0][0], grads[1][0])


def test_extreme_logits_stay_finite_and_nan_is_not_hidden():
    logits = torch.tensor([[1e4, -1e4, 0.0], [3e4, 3e4, 3e4], [float("nan"), 0.0, 1.0]])
    logprob, entropy = label_logprobs(logits, torch.eye(3), torch.tensor([0, 1, 2]), vocab_size=3)
    assert logprob[0] == 0
    assert entropy[0] == 0
    assert torch.isclose(entropy[1], torch.tensor(3.0).log())
    assert logprob[2].isnan()
    assert entropy[2].isnan()
