"""Small HF models of every architecture, made by the tests, and the logits that a Megatron rank computes."""

import math

import numpy as np
import torch

from nemo_cascade.types import PackedBatch

# Six layers, six key/value heads: divisible by 2, 3 and 6. The vocabulary is no multiple of any padding.
_SHAPE = {
    "num_hidden_layers": 6,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "head_dim": 8,
    "vocab_size": 501,
    "max_position_embeddings": 512,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 4.0,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
# qwen2 derives its head width from the hidden size.
_QWEN2 = {key: value for key, value in _SHAPE.items() if key != "head_dim"} | {"hidden_size": 96}
# Three key/value heads: TP 2 pads them to four, TP 6 gives every other rank nothing but padding.
_THREE = {"num_attention_heads": 9, "num_key_value_heads": 3}
ARCHITECTURES = {
    "qwen3_tied": {"model_type": "qwen3", **_SHAPE, "tie_word_embeddings": True},
    "qwen3_untied": {"model_type": "qwen3", **_SHAPE, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", **_QWEN2, "tie_word_embeddings": False},
    "qwen3_three_groups": {"model_type": "qwen3", **_SHAPE, **_THREE, "tie_word_embeddings": True},
    "qwen2_three_groups": {"model_type": "qwen2", **_QWEN2, **_THREE, "hidden_size": 72, "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3", **_QWEN2, **_THREE, "hidden_size": 72, "pad_token_id": 0, "eos_token_id": 1},
    "nemotron": {"model_type": "nemotron", **_SHAPE, "intermediate_size": 144, "tie_word_embeddings": False},
    "qwen3_yarn": {"model_type": "qwen3", **_SHAPE, "tie_word_embeddings": True, "rope_parameters": _YARN},
    "mistral": {"model_type": "mistral", **_SHAPE, "sliding_window": None, "tie_word_embeddings": False},
    "llama_linear": {"model_type": "llama", **_SHAPE, "tie_word_embeddings": False, "rope_parameters": _LINEAR},
    "llama3_scaled": {"model_type": "llama", **_SHAPE, "tie_word_embeddings": True, "rope_parameters": _LLAMA3},
}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 7}
# Twelve layers: half of them before and half behind every kind; a head of 32 is the smallest that vLLM has on a CPU.
_NEMOTRON_H = {
    "vocab_size": 501,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    **_TOKENS,
}
_NEMOTRON_H_EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 64,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
}
MIXTURES = {
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        **_SHAPE,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
        **_TOKENS,
    },
    "nemotron_h": {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "MEM*-EME*M-E",
        **_NEMOTRON_H,
        **_NEMOTRON_H_EXPERTS,
    },
    "nemotron_h_dense": {"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*-M-*M-M-", **_NEMOTRON_H},
}
"""Models with experts, state spaces, or both."""
PHI3 = "tests.support.phi3_family:Phi3"
"""A family that isn't shipped; the others don't need it."""


def write_hf_model(folder, name, dtype=torch.float32):
    """Write a model folder as transformers does, in which no two tensors are alike."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict((ARCHITECTURES | MIXTURES)[name])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for tensor_name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in tensor_name else 0.0, 0.1)
            for tensor_name, buffer in model.named_buffers():
                if tensor_name.endswith("e_score_correction_bias"):
                    buffer.normal_(0.0, 0.1)
    model.to(dtype).save_pretrained(folder, max_shard_size="200KB" if name == "qwen3_untied" else "1GB")
    return folder


def reference_logits(folder, documents):
    """Return transformers' own fp32 logits of each document, [tokens, vocabulary], one after the other."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return np.concatenate([model(torch.from_numpy(ids)[None]).logits[0].numpy() for ids in documents])


def make_documents(lengths, vocabulary, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, length) for length in lengths]


def boundaries(documents):
    return np.cumsum([0, *map(len, documents)]).astype(np.int32)


def pipeline_logits(chunks, documents):
    """Run one pack through the layout as it is; [tokens, padded vocabulary] on the last stage, None on the others."""
    from nemo_cascade.training.axes import current_axes
    from nemo_cascade.training.precision import Padding
    from nemo_cascade.training.step import run_schedule

    axes, tokens = current_axes(), sum(map(len, documents))
    ends = 2 * axes["cp"].size if axes["cp"].size > 1 else 1
    padding = Padding(
        document=ends,
        pack=math.lcm(ends, axes["cp"].size * axes["tp"].size),
        group=axes["pp"].size if len(chunks) > 1 else 1,
    )
    pack = PackedBatch(
        input_ids=np.concatenate(documents),
        loss_mask=np.zeros(tokens, np.float32),
        cu_seqlens=boundaries(documents),
    )
    with torch.no_grad():
        outputs = run_schedule(
            chunks,
            [pack],
            lambda last, batch: batch.whole(last.hidden_1TH[0] @ last.weight.t()),
            padding=padding,
            context=axes["cp"],
            forward_only=True,
        )
    if not outputs:
        return None
    group = axes["tp"].group
    shards = [torch.empty_like(outputs[0]) for _ in range(group.size())]
    torch.distributed.all_gather(shards, outputs[0].contiguous(), group=group)
    return torch.cat(shards, -1)
