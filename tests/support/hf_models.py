"""Small HF models of every architecture, made by the tests, and the logits that a Megatron rank computes."""

from functools import partial

import numpy as np
import torch

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
    "llama3_scaled": {"model_type": "llama", **_SHAPE, "tie_word_embeddings": True, "rope_parameters": _LLAMA3},
}
PHI3 = "tests.support.phi3_family:Phi3"
"""A family that isn't shipped; the others don't need it."""


def write_hf_model(folder, name, dtype=torch.float32):
    """Write a model folder as transformers does, in which no two tensors are alike."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(ARCHITECTURES[name])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for tensor_name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in tensor_name else 0.0, 0.1)
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
    """Run one pack through the pipeline; [tokens, padded vocabulary] on the last stage, None on the others."""
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

    step = partial(_forward, documents)
    with torch.no_grad():
        outputs = get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=None,
            model=chunks,
            num_microbatches=1,
            seq_length=sum(map(len, documents)),
            micro_batch_size=1,
            forward_only=True,
            collect_non_loss_data=True,
        )
    if not outputs:
        return None
    group = parallel_state.get_tensor_model_parallel_group()
    shards = [torch.empty_like(outputs[0]) for _ in range(group.size())]
    torch.distributed.all_gather(shards, outputs[0].contiguous(), group=group)
    return torch.cat(shards, -1)[0]


def _forward(documents, _, model):
    from nemo_cascade.models.megatron.build import packed_sequences

    ids = torch.from_numpy(np.concatenate(documents))[None]
    positions = torch.cat([torch.arange(len(d)) for d in documents])[None]
    logits = model(ids, positions, None, packed_seq_params=packed_sequences(boundaries(documents)))
    return logits, lambda output, non_loss_data: output
