"""What an HF config.json of a dense decoder may say: which fields are read, which change nothing, what is refused.

Import-light: no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3's rotary frequency scaling (transformers, `modeling_rope_utils`, rope_type llama3)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class Family:
    """What tells one HF model type from another.

    Attributes:
        class_name: HF's class of its language model.
        qk_norm: RMSNorm over each query and key head.
        qkv_bias: bias in the query, key and value projections.
        head_dim_required: its width isn't hidden_size / heads where nothing is said.
        window: when its attention has a window: where `use_sliding_window` is on (off where nothing is said); never,
            so that a `sliding_window` means another family's; unless `sliding_window` is null, which has to be said.
    """

    class_name: str
    qk_norm: bool = False
    qkv_bias: bool = False
    head_dim_required: bool = False
    window: Literal["switch", "never", "unless_null"] = "never"

    @property
    def scalar_class_name(self) -> str:
        """HF's class of the same decoder with a classification head."""
        return self.class_name.replace("CausalLM", "SequenceClassification")


FAMILIES: Mapping[str, Family] = {
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True, head_dim_required=True, window="switch"),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, window="switch"),
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM", window="unless_null"),
}

# fmt: off
_READ = frozenset((
    "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "head_dim",
    "num_key_value_heads", "vocab_size", "tie_word_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",
    "rope_parameters", "max_position_embeddings", "initializer_range", "hidden_act", "attention_dropout",
    "attention_bias", "mlp_bias", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types",
    "architectures", "pretraining_tp", "is_llama_config", "rope_interleaved", "num_labels", "id2label",
    "partial_rotary_factor", "quantization_config",
))
# They say nothing about the computation.
_INERT = frozenset((
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
_NUMBERS = ("rms_norm_eps", "initializer_range", "rope_theta", "attention_dropout", "partial_rotary_factor")
_COUNTS = ("num_labels", "max_window_layers", "sliding_window", "pretraining_tp")
_LISTS = ("architectures", "layer_types")
_MAPPINGS = ("rope_parameters", "rope_scaling", "id2label", "quantization_config")
# fmt: on


def field_problems(config: Mapping[str, Any], family: Family) -> list[str]:
    """Return every field of an HF config that is missing, malformed or unsupported, but for the rotary ones."""
    problems = [f"{key} is missing" for key in _REQUIRED_SIZES if key not in config]
    problems += [
        f"{key} must be a positive integer, got {config[key]!r}"
        for key in (*_REQUIRED_SIZES, "num_key_value_heads", "head_dim")
        if ((key in _REQUIRED_SIZES and key in config) or config.get(key) is not None) and not _is_size(config[key])
    ]
    kinds: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
        (_FLAGS, lambda v: isinstance(v, bool), "true or false"),
        (_NUMBERS, lambda v: _is_number(v) and v >= 0, "a number, 0 or above"),
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
    if problems:
        # What is malformed can't be compared; what is unsupported beside it is still told.
        malformed = [key for key in config if any(problem.startswith(f"{key} ") for problem in problems)]
        sound = {key: value for key, value in config.items() if key not in malformed}
        return problems + _unsupported({"num_hidden_layers": 0, **sound}, family)
    problems = _unsupported(config, family)
    if not problems:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        groups = config.get("num_key_value_heads") or heads
        if heads % groups:
            problems.append(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}")
        if not config.get("head_dim") and hidden % heads:
            problems.append(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    return problems


def rotary(config: Mapping[str, Any]) -> tuple[float, Llama3Scaling | None, list[str]]:
    """Return rotary base, scaling and what is wrong with them.

    transformers takes `rope_scaling` in place of `rope_parameters` where both are there; a config in which they differ
    has been put together of two, and is refused.
    """
    given = [dict(config[key]) for key in ("rope_scaling", "rope_parameters") if isinstance(config.get(key), Mapping)]
    given = [rope for rope in given if rope]
    read = [_rope(rope, config) for rope in given or [{}]]
    theta, scaling, problems = read[0]
    if not problems and len(read) == 2 and read[0] != read[1]:
        problems = [f"rope_scaling={given[0]!r} beside another rope_parameters={given[1]!r}"]
    return theta, scaling, problems


def _rope(rope: dict[str, Any], config: Mapping[str, Any]) -> tuple[float, Llama3Scaling | None, list[str]]:
    theta = rope.pop("rope_theta", config.get("rope_theta", 10000.0))
    kinds = {rope.pop(key) for key in ("rope_type", "type") if isinstance(rope.get(key), str)}
    if not _is_number(theta) or theta <= 0:
        return 1.0, None, [f"rope_theta must be a positive number, got {theta!r}"]
    if len(kinds) > 1:
        return float(theta), None, [f"rope_type and type differ: {' and '.join(sorted(kinds))}"]
    kind = next(iter(kinds), "default")
    if rope.get("partial_rotary_factor") == 1:
        del rope["partial_rotary_factor"]
    if kind == "default":
        unknown = [f"rope field {key}={value!r} of type default" for key, value in rope.items() if value]
        return float(theta), None, unknown
    if kind != "llama3":
        return float(theta), None, [f"rope_type {kind!r} (only default and llama3)"]
    fields = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    problems = [f"rope field {key} is missing" for key in fields if key not in rope]
    problems += [
        f"rope field {key} must be a positive number, got {rope[key]!r}"
        for key in fields
        if key in rope and not (_is_number(rope[key]) and rope[key] > 0)
    ]
    problems += [f"unknown rope field {key}={value!r}" for key, value in rope.items() if key not in fields and value]
    if not problems and rope["high_freq_factor"] <= rope["low_freq_factor"]:
        problems.append(f"rope field high_freq_factor must be above low_freq_factor {rope['low_freq_factor']!r}")
    if problems:
        return float(theta), None, problems
    return float(theta), Llama3Scaling(**{key: rope[key] for key in fields}), []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def has_scalar_head(config: Mapping[str, Any], family: Family) -> bool:
    """Tell whether a config is a reward model's."""
    return config.get("architectures") == [family.scalar_class_name]


def _num_labels(config: Mapping[str, Any]) -> int:
    """Return how many outputs transformers would give a classification head: two, where nothing is said."""
    return int(config.get("num_labels") or len(config.get("id2label") or (0, 1)))


def _unsupported(config: Mapping[str, Any], family: Family) -> list[str]:
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        (
            "architectures",
            lambda v: v in (None, [family.class_name], [family.scalar_class_name]),
            f"only [{family.class_name}] or [{family.scalar_class_name}]",
        ),
        (
            "id2label",
            lambda _: not has_scalar_head(config, family) or _num_labels(config) == 1,
            "a reward model has one output (num_labels=1)",
        ),
        ("hidden_act", lambda v: v in (None, "silu"), "only silu"),
        ("attention_dropout", lambda v: not v, "only 0"),
        ("attention_bias", lambda v: not v or (family.qkv_bias and v is True), "only false"),
        ("mlp_bias", lambda v: not v, "only false"),
        ("pretraining_tp", lambda v: v in (None, 1), "only 1"),
        ("rope_interleaved", lambda v: not v, "only false"),
        ("partial_rotary_factor", lambda v: v in (None, 1), "only 1"),
        ("layer_types", lambda v: set(v or ()) <= {"full_attention"}, "only full_attention"),
        ("quantization_config", lambda v: not v, "the weights are quantised; give the checkpoint in bf16 or fp32"),
        (_window_field(family), lambda _: not _window(config, family), "sliding-window attention is not supported"),
    ]
    if family.head_dim_required:
        rules.append(("head_dim", lambda v: v is not None, "must be given"))
    problems = [f"{key}={config.get(key)!r} ({limit})" for key, ok, limit in rules if not ok(config.get(key))]
    known = _READ | _INERT
    # A falsy unknown field switches nothing on; a leading underscore is transformers' own book-keeping.
    unknown = sorted(key for key, value in config.items() if key not in known and value and not key.startswith("_"))
    return problems + [f"unknown field {key}={config[key]!r}" for key in unknown]


def _window_field(family: Family) -> str:
    return "use_sliding_window" if family.window == "switch" else "sliding_window"


def _window(config: Mapping[str, Any], family: Family) -> bool:
    """Tell whether some layer attends to a window only, or would for another reader of the same config."""
    if family.window == "switch":
        return (
            bool(config.get("use_sliding_window")) and config.get("max_window_layers", 0) < config["num_hidden_layers"]
        )
    if family.window == "unless_null":
        return "sliding_window" not in config or config["sliding_window"] is not None
    return bool(config.get("sliding_window"))
