"""The proof of what engines hold: a stand-in with vLLM's parameter names, cut for any number of workers."""

import pytest
import torch

from nemo_cascade.errors import WeightSyncError
from nemo_cascade.models.hf_config import architecture_from_hf
from nemo_cascade.models.rules import hf_shapes
from nemo_cascade.rollout.checksums import checksum
from nemo_cascade.rollout.held_weights import SentWeight, check_held, held_slices
from tests.support.hf_models import PHI3
from tests.support.tiny_policy import CONFIG

# Qwen2 has biases, Qwen3 norms of queries and keys, Phi-3 stacks its tensors; 8 query heads, 2 groups.
FAMILIES = {
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "tie_word_embeddings": False},
}


def architecture(family):
    return architecture_from_hf({**CONFIG, "num_attention_heads": 8, "num_hidden_layers": 2, **FAMILIES[family]}, PHI3)


def weights_of(arch, dtype):
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in hf_shapes(arch).items()}


class Worker:
    """One tensor-parallel worker's parameters, cut as vLLM documents it: heads dealt out, groups repeated if few."""

    def __init__(self, weights, arch, rank, size):
        self.parameters = {}

        def rows(name, count, index):
            return weights[name][index * count : (index + 1) * count]

        attention, dim = arch.layers[0].mixer, arch.layers[0].mixer.head_dim
        group = rank * attention.groups // size
        groups = max(1, attention.groups // size)
        for name, whole in weights.items():
            stem, _, kind = name.rpartition(".")
            if stem.endswith("q_proj"):
                q = rows(name, attention.heads // size * dim, rank)
                k, v = (weights[f"{stem[:-6]}{x}_proj.{kind}"][group * dim : (group + groups) * dim] for x in "kv")
                self.parameters[f"{stem[:-6]}qkv_proj.{kind}"] = torch.cat([q, k, v])
            elif stem.endswith("qkv_proj"):  # stacked by HF already
                kv = attention.groups * dim
                whole_q, *whole_kv = whole.split([attention.heads * dim, kv, kv])
                own = [w[group * dim : (group + groups) * dim] for w in whole_kv]
                self.parameters[name] = torch.cat([whole_q.chunk(size)[rank], *own])
            elif stem.endswith("gate_up_proj"):
                self.parameters[name] = torch.cat([w.chunk(size)[rank] for w in whole.chunk(2)])
            elif stem.endswith("gate_proj"):
                half = arch.layers[0].mlp.width // size
                pair = [rows(name, half, rank), rows(name.replace("gate", "up"), half, rank)]
                self.parameters[name.replace("gate_proj", "gate_up_proj")] = torch.cat(pair)
            elif stem.endswith(("embed_tokens", "lm_head")):
                height = -(-arch.vocab_size // 64) * 64 // size
                own = rows(name, height, rank)
                self.parameters[name] = torch.cat([own, own.new_full((height - len(own), own.shape[1]), 7.0)])
            elif stem.endswith(("o_proj", "down_proj")):
                self.parameters[name] = whole.chunk(size, 1)[rank].clone()
            elif not stem.endswith(("k_proj", "v_proj", "up_proj")):
                self.parameters[name] = whole.clone()

    def named_parameters(self):
        return self.parameters.items()


def prove(arch, weights, workers):
    sent = {n: SentWeight(w.shape[0], w[0].numel(), checksum(w)) for n, w in weights.items()}
    aliases = {"lm_head.weight": "model.embed_tokens.weight"} if arch.tied else {}
    check_held(sent, [held_slices(w, arch, rank, len(workers)) for rank, w in enumerate(workers)], aliases)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_right_weights_pass_in_every_cut_and_dtype(family, size, dtype):
    arch = architecture(family)
    weights = weights_of(arch, dtype)
    prove(arch, weights, [Worker(weights, arch, rank, size) for rank in range(size)])


def swap_rows(w):
    w[[0, 1]] = w[[1, 0]]


def next_ulp(w):
    w[3, 5] = torch.nextafter(w[3, 5], torch.tensor(torch.inf, dtype=w.dtype))


def shift_columns(w):
    w.copy_(w.roll(1, 1))


DAMAGES = [
    ("model.layers.1.self_attn.qkv_proj.weight", swap_rows),
    ("model.layers.1.self_attn.o_proj.weight", shift_columns),
    ("model.layers.0.mlp.gate_up_proj.weight", next_ulp),
    ("model.layers.0.input_layernorm.weight", lambda w: w.copy_(w.flip(0))),
    ("model.embed_tokens.weight", swap_rows),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
@pytest.mark.parametrize("size", [1, 4])
def test_wrong_bits_in_one_worker_are_caught_and_named(name, damage, size):
    arch = architecture("qwen3")
    weights = weights_of(arch, torch.bfloat16)
    workers = [Worker(weights, arch, rank, size) for rank in range(size)]
    damage(workers[-1].parameters[name] if "embed" not in name else workers[0].parameters[name])
    with pytest.raises(WeightSyncError, match=r"1 of .* differ") as caught:
        prove(arch, weights, workers)
    assert name.rpartition(".")[0].replace("qkv_proj", "q_proj").replace("gate_up_proj", "gate_proj") in str(
        caught.value
    )


def test_workers_that_hold_each_others_slices_are_caught():
    arch = architecture("qwen3")
    weights = weights_of(arch, torch.bfloat16)
    with pytest.raises(WeightSyncError, match="checksum"):
        prove(arch, weights, [Worker(weights, arch, rank, 2) for rank in (1, 0)])


def test_a_head_that_was_left_behind_by_its_embedding_is_caught():
    arch = architecture("qwen3")
    weights = weights_of(arch, torch.bfloat16)
    worker = Worker(weights, arch, 0, 1)
    worker.parameters["lm_head.weight"] = worker.parameters["model.embed_tokens.weight"] * 2
    with pytest.raises(WeightSyncError, match=r"lm_head\.weight: checksum"):
        prove(arch, weights, [worker])


def test_parts_add_up_to_the_whole():
    whole = torch.randn(70_000, 3, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    parts = checksum(whole[:65_000]) + checksum(whole[65_000:, :2], 65_000) + checksum(whole[65_000:, 2:], 65_000, 2)
    assert parts % (1 << 64) == checksum(whole) != checksum(whole[torch.randperm(70_000)])
