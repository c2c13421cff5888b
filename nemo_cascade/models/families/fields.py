"""What an HF config.json of a dense decoder may say: which fields are read, which change nothing, of what kind each is.

Import-light: no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

# fmt: off
READ = frozenset((
    "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "head_dim",
    "num_key_value_heads", "vocab_size", "tie_word_embeddings", "rms_norm_eps", "norm_eps", "rope_theta",
    "rope_scaling", "rope_parameters", "max_position_embeddings", "initializer_range", "hidden_act",
    "attention_dropout", "attention_bias", "mlp_bias", "use_sliding_window", "sliding_window", "max_window_layers",
    "layer_types", "architectures", "pretraining_tp", "is_llama_config", "rope_interleaved", "num_labels", "id2label",
    "partial_rotary_factor", "quantization_config",
))
# They say nothing about the computation.
INERT = frozenset((
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "dtype", "torch_dtype",
    "transformers_version", "use_cache", "bos_token", "eos_token", "pad_token", "sep_token_id",
    "name_or_path", "transformers.js_config", "auto_map", "unsloth_version", "unsloth_fixed", "label2id",
    "problem_type", "tokenizer_class", "task_specific_params", "finetuning_task", "model_max_length",
    "max_sequence_length", "attn_implementation", "use_flash_attn", "is_decoder", "torchscript",
    # How a call is made, and how text is drawn: transformers 4 wrote them beside the model, 5 takes them out.
    "return_dict", "output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate",
    "logits_to_keep", "num_logits_to_keep", "max_length", "min_length", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences", "prefix",
    "remove_invalid_values", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "decoder_start_token_id", "exponential_decay_length_penalty", "max_new_tokens",
))
_REQUIRED_SIZES = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size",
    "max_position_embeddings",
)
_FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "rope_interleaved")
_NUMBERS = ("rms_norm_eps", "norm_eps", "initializer_range", "rope_theta", "attention_dropout", "partial_rotary_factor")
_COUNTS = ("num_labels", "max_window_layers", "sliding_window", "pretraining_tp")
_LISTS = ("architectures", "layer_types")
_MAPPINGS = ("rope_parameters", "rope_scaling", "id2label", "quantization_config")
# fmt: on


def malformed(config: Mapping[str, Any]) -> list[str]:
    """Return every field of an HF config that is missing or of another kind than it has to be."""
    problems = [f"{key} is missing" for key in _REQUIRED_SIZES if key not in config]
    problems += [
        f"{key} must be a positive integer, got {config[key]!r}"
        for key in (*_REQUIRED_SIZES, "num_key_value_heads", "head_dim")
        if ((key in _REQUIRED_SIZES and key in config) or config.get(key) is not None) and not is_size(config[key])
    ]
    kinds: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
        (_FLAGS, lambda v: isinstance(v, bool), "true or false"),
        (_NUMBERS, lambda v: is_number(v) and v >= 0, "a number, 0 or above"),
        (_COUNTS, lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, "an integer, 0 or above"),
        (_LISTS, lambda v: isinstance(v, list) and all(isinstance(i, str) for i in v), "a list of texts"),
        (_MAPPINGS, lambda v: isinstance(v, Mapping), "a mapping"),
    )
    problems += [
        f"{key} must be {words}, got {config[key]!r}"
        for names, fits, words in kinds
        for key in names
        if config.get(key) is not None and not fits(config[key])
    ]
    return problems


def unknown(config: Mapping[str, Any]) -> list[str]:
    """Return the fields that nobody knows.

    A falsy one switches nothing on; a leading underscore is transformers' own book-keeping.
    """
    known = READ | INERT
    names = sorted(key for key, value in config.items() if key not in known and value and not key.startswith("_"))
    return [f"unknown field {key}={config[key]!r}" for key in names]


def is_number(value: Any) -> bool:
    """Tell whether it is a finite number, true and false not counted."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_size(value: Any) -> bool:
    """Tell whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
