"""Log-probabilities of a large vocabulary: memory and time against logits and torch's cross entropy."""

import multiprocessing
import resource
import time

import pytest
import torch

from nemo_cascade.training.logprobs import label_logprobs

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

VOCABULARY = 131_072


def drawn(tokens, words, width):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, width, generator=generator).div_(width**0.25) for n in (tokens, words))
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, words, (tokens,), generator=generator)


def in_blocks(hidden, weight, labels):
    return -label_logprobs(hidden, weight, labels, vocab_size=len(weight), entropy=False)[0].sum()


def of_logits(hidden, weight, labels):
    return torch.nn.functional.cross_entropy(hidden @ weight.t(), labels, reduction="sum")


def measured(way, tokens, words, width, repeats):
    """Return seconds of the quickest forward and backward pass, and bytes above what was there before."""
    torch.set_num_threads(1)
    inputs = drawn(tokens, words, width)
    in_blocks(*drawn(8, 8, 8)).backward()  # what is loaded once
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(repeats):
        begin = time.process_time()
        torch.autograd.grad(way(*inputs), inputs[:2])
        seconds.append(time.process_time() - begin)
    return min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def apart(*arguments):
    """Measure in a process of its own, whose peak memory is nobody else's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, arguments)


def test_memory_stays_a_fraction_of_the_logits_at_16k_tokens_of_a_large_vocabulary():
    tokens, width = 16_384, 64
    logits = 4 * tokens * VOCABULARY
    seconds, extra = apart(in_blocks, tokens, VOCABULARY, width, 1)
    print(f"\n{VOCABULARY:,} words x {tokens:,} tokens: {extra / 2**30:.2f} GiB, logits alone {logits / 2**30:.2f} GiB")
    print(f"  {seconds:.1f} s")
    assert extra < 0.25 * logits


def test_gradients_are_torchs():
    inputs = drawn(2048, VOCABULARY, 64)
    for found, wanted in zip(
        *(torch.autograd.grad(way(*inputs), inputs[:2]) for way in (in_blocks, of_logits)), strict=True
    ):
        assert (found - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize(
    ("tokens", "words", "width", "repeats"),
    [(2048, 384, 128, 20), (1024, 49_152, 576, 3), (2048, VOCABULARY, 512, 1)],
)
def test_time_and_memory_against_torchs_cross_entropy(tokens, words, width, repeats):
    print(f"\n{words:,} words x {tokens:,} tokens, width {width}")
    for name, way in (("in blocks", in_blocks), ("torch, of logits", of_logits)):
        seconds, extra = apart(way, tokens, words, width, repeats)
        print(f"  {name:18s} {seconds * 1e3:9.1f} ms   {extra / 2**20:8.0f} MiB")
