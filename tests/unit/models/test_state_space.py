"""Mamba-2 in plain PyTorch: the recurrence, token by token, and nothing of one document in another."""

import torch
import torch.nn.functional as F

from nemo_cascade.models.megatron.state_space import convolve, scan, split_convolve_scan

LENGTHS = (150, 1, 64, 65, 7)
HEADS, DIM, GROUPS, STATE, KERNEL = 4, 8, 2, 5, 4


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(LENGTHS)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x_LHP": draw(tokens, HEADS, DIM),
        "dt_LH": F.softplus(draw(tokens, HEADS)),
        "A_H": -draw(HEADS).exp(),
        "B_LGN": draw(tokens, GROUPS, STATE),
        "C_LGN": draw(tokens, GROUPS, STATE),
        "D_H": draw(HEADS),
    }


def token_by_token(x_LHP, dt_LH, A_H, B_LGN, C_LGN, D_H, lengths):
    starts, outputs = {0, *torch.tensor(lengths).cumsum(0).tolist()}, []
    B_LHN, C_LHN = (t.repeat_interleave(HEADS // GROUPS, 1) for t in (B_LGN, C_LGN))
    for t in range(len(x_LHP)):
        if t in starts:
            state = x_LHP.new_zeros(HEADS, DIM, STATE)
        step = dt_LH[t][:, None, None]
        state = state * (step * A_H[:, None, None]).exp() + step * x_LHP[t][:, :, None] * B_LHN[t][:, None, :]
        outputs.append((state * C_LHN[t][:, None, :]).sum(-1) + D_H[:, None] * x_LHP[t])
    return torch.stack(outputs)


def test_chunks_compute_the_recurrence_and_its_gradients():
    exact = {name: value.requires_grad_() for name, value in inputs().items()}
    single = {name: value.detach().float().requires_grad_() for name, value in exact.items()}
    expected, found = token_by_token(**exact, lengths=LENGTHS), scan(**single, lengths=LENGTHS)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected * weights).sum().backward()
    (found * weights.float()).sum().backward()
    for name, value in exact.items():
        scale = float(value.grad.abs().max())
        torch.testing.assert_close(single[name].grad.double() / scale, value.grad / scale, rtol=0, atol=2e-5)


def test_convolution_and_state_begin_anew_at_each_document():
    generator = torch.Generator().manual_seed(2)
    inner, states = HEADS * DIM, GROUPS * STATE
    rows, channels = sum(LENGTHS), inner + 2 * states
    zxbcdt = torch.randn(1, rows, inner + channels + HEADS, generator=generator)
    weights = {
        "conv1d_weight": torch.randn(channels, KERNEL, generator=generator),
        "conv1d_bias": torch.randn(channels, generator=generator),
        "dt_bias": torch.randn(HEADS, generator=generator),
        "A": -torch.rand(HEADS, generator=generator),
        "D": torch.randn(HEADS, generator=generator),
        "chunk_size": 128,
        "headdim": DIM,
        "ngroups": GROUPS,
    }
    document = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))[None]
    packed = split_convolve_scan(zxbcdt, **weights, seq_idx=document)
    alone = [split_convolve_scan(part, **weights) for part in zxbcdt.split(LENGTHS, 1)]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=1e-5, atol=1e-5)
    changed = zxbcdt.clone()
    changed[0, 149] += 1  # the last token of the first document
    difference = (split_convolve_scan(changed, **weights, seq_idx=document) - packed).abs()[0].amax(-1)
    assert difference[149] > 0
    assert torch.count_nonzero(difference) == 1


def test_the_convolution_is_causal_and_that_of_torch():
    x, weight, bias = torch.randn(20, 6), torch.randn(6, KERNEL), torch.randn(6)
    expected = F.conv1d(x.t()[None], weight[:, None], bias, padding=KERNEL - 1, groups=6)[0, :, :20].t()
    torch.testing.assert_close(convolve(x, weight, bias, [20]), F.silu(expected))
