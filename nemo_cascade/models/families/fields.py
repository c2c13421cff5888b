"""What an HF config.json may say: which fields are read, which change nothing, of what kind each is. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeGuard

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The fields that a family's readers go by.

    Attributes:
        required: whole numbers above 0 that must be there.
        sizes: the same, where they are there.
        counts: whole numbers, 0 or above.
        numbers: 0 or above.
        flags: true or false.
        lists: of texts.
        mappings: of anything.
        texts: of any kind; who reads them looks at them.
        inert: they say nothing about the computation.
    """

    required: Names = ()
    sizes: Names = ()
    counts: Names = ()
    numbers: Names = ()
    flags: Names = ()
    lists: Names = ()
    mappings: Names = ()
    texts: Names = ()
    inert: Names = ()

    def __or__(self, other: Fields) -> Fields:
        """Return both together."""
        return Fields(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(Fields)})

    def malformed(self, config: Mapping[str, Any]) -> list[str]:
        """Return every field of an HF config that is missing or of another kind than it has to be."""
        problems = [f"{key} is missing" for key in self.required if key not in config]
        problems += [
            f"{key} must be a positive integer, got {config[key]!r}"
            for key in (*self.required, *self.sizes)
            if ((key in self.required and key in config) or config.get(key) is not None) and not is_size(config[key])
        ]
        kinds: tuple[tuple[Names, Callable[[Any], bool], str], ...] = (
            (self.flags, lambda v: isinstance(v, bool), "true or false"),
            (self.numbers, lambda v: is_number(v) and v >= 0, "a number, 0 or above"),
            (self.counts, lambda v: is_size(v) or (v == 0 and not isinstance(v, bool)), "an integer, 0 or above"),
            (self.lists, lambda v: isinstance(v, list) and all(isinstance(i, str) for i in v), "a list of texts"),
            (self.mappings, lambda v: isinstance(v, Mapping), "a mapping"),
        )
        problems += [
            f"{key} must be {words}, got {config[key]!r}"
            for names, fits, words in kinds
            for key in names
            if config.get(key) is not None and not fits(config[key])
        ]
        return problems

    def unknown(self, config: Mapping[str, Any]) -> list[str]:
        """Return the fields that nobody knows.

        A falsy one switches nothing on; a leading underscore is transformers' own book-keeping.
        """
        known = {name for each in fields(Fields) for name in getattr(self, each.name)}
        names = sorted(key for key, value in config.items() if key not in known and value and not key.startswith("_"))
        return [f"unknown field {key}={config[key]!r}" for key in names]


# fmt: off
COMMON = Fields(
    required=("hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"),
    sizes=("num_key_value_heads", "head_dim"),
    flags=("tie_word_embeddings", "attention_bias", "mlp_bias"),
    numbers=("attention_dropout", "initializer_range", "partial_rotary_factor", "rope_theta"),
    counts=("num_labels",),
    lists=("architectures",),
    mappings=("id2label", "quantization_config"),
    texts=("model_type", "num_hidden_layers", "intermediate_size", "score_weights"),
    inert=(
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
    ),
)
"""What every decoder's config says."""
DENSE = COMMON | Fields(
    required=("num_hidden_layers", "intermediate_size"),
    flags=("use_sliding_window", "rope_interleaved"),
    numbers=("rms_norm_eps",),
    counts=("max_window_layers", "sliding_window", "pretraining_tp"),
    lists=("layer_types",),
    mappings=("rope_parameters", "rope_scaling"),
    texts=("hidden_act", "is_llama_config"),
)
"""What that of a dense decoder of Llama's build says beside it."""
# fmt: on


def is_number(value: Any) -> bool:
    """Tell whether it is a finite number, true and false not counted."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_size(value: Any) -> TypeGuard[int]:
    """Tell whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
