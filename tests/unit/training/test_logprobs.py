import pytest
import torch

from nemo_cascade.training.logprobs import label_logprobs


def _reference(logits, labels, vocab, temperature):
    logp = torch.log_softmax(logits[:, :vocab].double() / temperature, -1)
    return logp.gather(1, labels[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_match_float64_and_padding_takes_no_part(chunk, temperature):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(11, 40, generator=generator) * 5
    raw[:, 33:] = 1e4  # padded columns would dominate the softmax
    labels = torch.randint(0, 33, (11,), generator=generator)
    up_logprob, up_entropy = torch.randn(2, 11, generator=generator)

    logits = raw.clone().requires_grad_()
    logprob, entropy = label_logprobs(logits, labels, vocab_size=33, temperature=temperature, chunk_tokens=chunk)
    (logprob * up_logprob + entropy * up_entropy).sum().backward()

    exact = raw.double().requires_grad_()
    want_logprob, want_entropy = _reference(exact, labels, 33, temperature)
    (want_logprob * up_logprob + want_entropy * up_entropy).sum().backward()
    torch.testing.assert_close(logprob.double(), want_logprob, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(entropy.double(), want_entropy, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=2e-6)
    assert logits.grad[:, 33:].abs().max() == 0


def test_chunks_do_not_change_a_bit_and_overwriting_gives_the_same_gradient_in_the_logits_memory():
    raw = torch.randn(64, 100, generator=torch.Generator().manual_seed(1)).bfloat16()
    labels = torch.arange(64) % 100
    grads = []
    for chunk, overwrite in ((64, False), (7, False), (7, True)):
        leaf = raw.clone().requires_grad_()
        logits = leaf * 1
        logprob, _ = label_logprobs(logits, labels, vocab_size=100, chunk_tokens=chunk, overwrite_logits=overwrite)
        logprob.sum().backward()
        grads.append((logprob.detach(), leaf.grad))
        assert torch.equal(logits.detach(), leaf.grad) == overwrite
    for logprob, grad in grads[1:]:
        assert torch.equal(logprob, grads[0][0])
        assert torch.equal(grad, grads[0][1])


def test_extreme_logits_stay_finite_and_nan_is_not_hidden():
    logits = torch.tensor([[1e4, -1e4, 0.0], [3e4, 3e4, 3e4], [float("nan"), 0.0, 1.0]])
    logprob, entropy = label_logprobs(logits, torch.tensor([0, 1, 2]), vocab_size=3)
    assert logprob[0] == 0
    assert entropy[0] == 0
    assert torch.isclose(entropy[1], torch.tensor(3.0).log())
    assert logprob[2].isnan()
    assert entropy[2].isnan()
