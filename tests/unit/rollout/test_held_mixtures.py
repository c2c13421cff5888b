"""The proof of what engines hold, of experts and state spaces: vLLM's names and cuts, for any number of workers."""

import pytest
import torch

from nemo_cascade.errors import WeightSyncError
from nemo_cascade.models.architecture import Attention, Experts, Mamba
from nemo_cascade.models.hf_config import architecture_from_hf
from nemo_cascade.models.rules import fp32_names, hf_shapes
from nemo_cascade.rollout.checksums import checksum, held_form
from nemo_cascade.rollout.held_weights import SentWeight, check_held, held_slices
from tests.support.hf_models import MIXTURES


class Worker:
    """One worker's parameters: experts stacked in one tensor, Mamba's rows cut segment by segment, A in place of A_log.

    Args:
        stacked: as vLLM's kernels have the experts; else each as in HF's files, as on a CPU.
    """

    def __init__(self, weights, arch, rank, size, stacked):
        self.parameters = {}
        for number, layer in enumerate(arch.layers):
            attention, hf = layer.mixer, f"layers.{number}."
            own = {name: weight for name, weight in weights.items() if hf in name}
            if isinstance(attention, Attention):
                q, k, v = (next(n for n in own if f"{x}_proj.weight" in n) for x in "qkv")
                parts = [own.pop(name).chunk(size)[rank] for name in (q, k, v)]
                self.put(q.replace("q_proj", "qkv_proj"), torch.cat(parts))
            if isinstance(layer.mlp, Experts) and stacked:
                self.stack(own, layer.mlp, rank, size)
            for name, weight in own.items():
                self.put(name, self.cut(name, weight, layer, rank, size))
        for name in (name for name in weights if ".layers." not in name):
            whole = weights[name]
            height = -(-arch.vocab_size // 64) * 64 // size
            part = whole if whole.dim() == 1 else whole[rank * height : (rank + 1) * height]
            missing = () if whole.dim() == 1 else (part.new_full((height - len(part), part.shape[1]), 7.0),)
            self.put(name, torch.cat([part, *missing]))

    def stack(self, own, experts, rank, size):
        stem = next(name for name in own if ".experts.0." in name).partition(".experts.0.")[0]
        up, down = [], []
        for number in range(experts.count):
            names = ("gate", "up") if experts.activation == "swiglu" else ("up",)
            halves = [own.pop(f"{stem}.experts.{number}.{x}_proj.weight").chunk(size)[rank] for x in names]
            up.append(torch.cat(halves))
            down.append(own.pop(f"{stem}.experts.{number}.down_proj.weight").chunk(size, 1)[rank])
        self.put(f"{stem}.experts.routed_experts.w13_weight", torch.stack(up))
        self.put(f"{stem}.experts.routed_experts.w2_weight", torch.stack(down))

    def cut(self, name, weight, layer, rank, size):
        if isinstance(layer.mixer, Mamba) and ".mixer." in name:
            if "in_proj" in name or "conv1d" in name:
                heights = layer.mixer.segments if "in_proj" in name else layer.mixer.segments[1:4]
                return torch.cat([part.chunk(size)[rank] for part in weight.split(heights)])
            return weight.chunk(size, 1)[rank] if "out_proj" in name else weight.chunk(size)[rank]
        if name.endswith("up_proj.weight"):
            return weight.chunk(size)[rank]
        return weight.chunk(size, 1)[rank] if name.endswith(("o_proj.weight", "down_proj.weight")) else weight

    def put(self, name, tensor):
        engine = name.replace("backbone.", "model.").replace(".embeddings.", ".embed_tokens.")
        engine = engine.replace(".mixer.A_log", ".mixer.A")
        self.parameters[engine] = held_form(name, tensor).clone()

    def named_parameters(self):
        return self.parameters.items()


def drawn(name):
    arch, generator = architecture_from_hf(MIXTURES[name]), torch.Generator().manual_seed(0)
    kept = fp32_names(arch)
    weights = {
        n: torch.randn(s, generator=generator).to(torch.float32 if n in kept else torch.bfloat16)
        for n, s in hf_shapes(arch).items()
    }
    return arch, weights


def prove(arch, weights, workers):
    sent = {n: SentWeight(w.shape[0], w[0].numel(), checksum(held_form(n, w))) for n, w in weights.items()}
    check_held(sent, [held_slices(w, arch, rank, len(workers)) for rank, w in enumerate(workers)], {})


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", MIXTURES)
def test_right_weights_pass_in_every_cut(name, size, stacked):
    arch, weights = drawn(name)
    prove(arch, weights, [Worker(weights, arch, rank, size, stacked) for rank in range(size)])


def swap_experts(weight):
    weight[[1, 2]] = weight[[2, 1]]


DAMAGES = [
    ("model.layers.1.mixer.experts.routed_experts.w13_weight", swap_experts, "experts.1.up_proj"),
    ("model.layers.1.mixer.experts.routed_experts.w2_weight", swap_experts, "experts.2.down_proj"),
    ("model.layers.1.mixer.gate.e_score_correction_bias", lambda w: w.add_(1e-3), "e_score_correction_bias"),
    ("model.layers.0.mixer.A", lambda w: w.mul_(2), "A_log"),
    ("model.layers.0.mixer.conv1d.weight", lambda w: w.copy_(w.flip(0)), "conv1d.weight"),
    ("model.layers.0.mixer.in_proj.weight", lambda w: w.copy_(w.roll(1, 0)), "in_proj.weight"),
    ("model.layers.4.mixer.up_proj.weight", lambda w: w.zero_(), "up_proj"),
]


@pytest.mark.parametrize(("parameter", "damage", "named"), DAMAGES)
def test_wrong_experts_states_and_stale_biases_are_caught_and_named(parameter, damage, named):
    arch, weights = drawn("nemotron_h")
    workers = [Worker(weights, arch, rank, 2, stacked=True) for rank in range(2)]
    damage(workers[1].parameters[parameter])
    with pytest.raises(WeightSyncError, match=f"differ.*{named}"):
        prove(arch, weights, workers)
