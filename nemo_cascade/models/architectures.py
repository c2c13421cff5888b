"""Read an HF config.json into the one description of a dense decoder that everything else works with.

Import-light: no torch. What this package can't represent faithfully is refused by name, all of it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.json_file import read_json_object
from nemo_cascade.errors import ModelError


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3's rotary frequency scaling (transformers, `modeling_rope_utils`, rope_type llama3)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A dense decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    Attributes:
        model_type: HF's name (`qwen3`, `qwen2`, `llama`).
        num_layers: decoder layers.
        hidden_size: width of the residual stream.
        ffn_hidden_size: width of the gated MLP.
        num_attention_heads: query heads.
        num_query_groups: key/value heads.
        head_dim: width of one head.
        vocab_size: rows of the embedding in the HF files, without Megatron's padding.
        tied: the output layer is the embedding.
        qk_norm: RMSNorm over each query and key head (Qwen3).
        qkv_bias: bias in the query, key and value projections (Qwen2).
        norm_epsilon: added to the mean square in RMSNorm.
        rope_theta: rotary base.
        rope_scaling: None, or Llama 3's scaling.
        max_position_embeddings: longest sequence the model was made for.
        init_std: standard deviation of fresh weights.
        head: `lm` gives a logit per vocabulary entry, `scalar` one score per token (a reward model).
    """

    model_type: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    vocab_size: int
    tied: bool
    qk_norm: bool
    qkv_bias: bool
    norm_epsilon: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    max_position_embeddings: int
    init_std: float
    head: Literal["lm", "scalar"] = "lm"

    def with_scalar_head(self) -> Architecture:
        """Return the same decoder with one score per token in place of logits; its embedding is tied to nothing."""
        return replace(self, head="scalar", tied=False)

    def padded_vocab_size(self, divisible_by: int, tensor_parallel: int) -> int:
        """Return the embedding's rows in Megatron: vocab_size rounded up to divisible_by x tensor_parallel."""
        multiple = divisible_by * tensor_parallel
        return -(-self.vocab_size // multiple) * multiple

    def padding_groups(self, tensor_parallel: int) -> int:
        """Return how many key/value groups tensor parallelism adds to every layer so that its ranks get equal shares.

        Such a group has zero weights, so its output and its gradients are zero and stay so: nothing is computed
        differently, some of it in vain.
        """
        return -self.num_query_groups % tensor_parallel

    @property
    def heads_per_group(self) -> int:
        """Query heads of one key/value head."""
        return self.num_attention_heads // self.num_query_groups


@dataclass(frozen=True, slots=True)
class _Family:
    """What tells one HF model type from another."""

    class_name: str
    qk_norm: bool = False
    qkv_bias: bool = False
    head_dim_required: bool = False

    @property
    def scalar_class_name(self) -> str:
        """HF's class of the same decoder with a classification head."""
        return self.class_name.replace("CausalLM", "SequenceClassification")


FAMILIES: Mapping[str, _Family] = {
    "qwen3": _Family("Qwen3ForCausalLM", qk_norm=True, head_dim_required=True),
    "qwen2": _Family("Qwen2ForCausalLM", qkv_bias=True),
    "llama": _Family("LlamaForCausalLM"),
}

# fmt: off
_READ = frozenset((
    "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "head_dim",
    "num_key_value_heads", "vocab_size", "tie_word_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",
    "rope_parameters", "max_position_embeddings", "initializer_range", "hidden_act", "attention_dropout",
    "attention_bias", "mlp_bias", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types",
    "architectures", "pretraining_tp", "is_llama_config", "rope_interleaved", "num_labels", "id2label",
))
# They say nothing about the computation.
_INERT = frozenset((
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "dtype", "torch_dtype",
    "transformers_version", "use_cache",
    "name_or_path", "transformers.js_config", "auto_map", "unsloth_version", "label2id", "problem_type",
))
_REQUIRED_SIZES = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size",
    "max_position_embeddings",
)
# fmt: on


def read_architecture(folder: Path) -> Architecture:
    """Read `folder/config.json`.

    Raises:
        ModelError: no such file, no JSON, or a model that can't be represented (every reason listed).
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError("this is not an HF model folder: it has no config.json", value=str(folder))
    return architecture_from_hf(read_json_object(path))


def architecture_from_hf(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that an HF config describes.

    Args:
        config: the content of config.json, old (`rope_theta`) or new (`rope_parameters`) spelling.

    Raises:
        ModelError: listing every field that is missing, malformed or unsupported.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise ModelError("unsupported model_type", value=config.get("model_type"), limit=", ".join(sorted(FAMILIES)))
    problems = [f"{key} is missing" for key in _REQUIRED_SIZES if key not in config]
    problems += [
        f"{key} must be a positive integer, got {config[key]!r}"
        for key in (*_REQUIRED_SIZES, "num_key_value_heads", "head_dim")
        if config.get(key) is not None and not _is_size(config[key])
    ]
    problems += _unsupported(config, family)
    theta, scaling, rope_problems = _rope(config)
    problems += rope_problems
    if not problems:
        heads = config["num_attention_heads"]
        groups = config.get("num_key_value_heads") or heads
        if heads % groups:
            problems.append(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}")
        if not config.get("head_dim") and config["hidden_size"] % heads:
            problems.append(f"hidden_size {config['hidden_size']} is not a multiple of num_attention_heads {heads}")
    if problems:
        raise ModelError(
            f"{len(problems)} thing(s) in this {config['model_type']} config can't be represented: "
            + "; ".join(problems)
        )
    architecture = Architecture(
        model_type=config["model_type"],
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"],
        num_attention_heads=heads,
        num_query_groups=groups,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        qk_norm=family.qk_norm,
        qkv_bias=family.qkv_bias,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        max_position_embeddings=config["max_position_embeddings"],
        init_std=float(config.get("initializer_range", 0.02)),
    )
    return architecture.with_scalar_head() if _has_scalar_head(config, family) else architecture


def unexpected_fields(found: Architecture, expected: Mapping[str, Any]) -> list[str]:
    """Return how an architecture differs from the one that HF config fields describe; nothing where there are none."""
    wanted = asdict(architecture_from_hf(expected)) if expected else {}
    return [
        f"{name} {asdict(found)[name]}, not {value}" for name, value in wanted.items() if asdict(found)[name] != value
    ]


def scalar_head_config(model_type: str) -> dict[str, Any]:
    """Return what config.json says of a reward model beside what it says of its decoder."""
    return {
        "architectures": [FAMILIES[model_type].scalar_class_name],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
    }


def layout_problems(arch: Architecture, parallel: ParallelConfig) -> list[str]:
    """Return every reason why this architecture can't be split by this layout; empty if it can.

    Args:
        arch: the model.
        parallel: tensor, pipeline, context and expert parallel sizes.
    """
    tensor, pipeline = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    problems = []
    groups, padding, ffn = arch.num_query_groups, arch.padding_groups(tensor), arch.ffn_hidden_size
    if padding and not parallel.pad_attention_groups:
        problems.append(
            f"num_key_value_heads {groups} (of {groups * arch.heads_per_group} heads) is not a multiple of "
            f"tensor_model_parallel_size {tensor}; parallel.pad_attention_groups=true adds {padding} zero groups"
        )
    elif padding > groups:  # more attention would be computed in vain than for the model
        fit = ", ".join(str(size) for size in range(1, 2 * groups + 1) if ffn % size == 0)
        problems.append(
            f"tensor_model_parallel_size {tensor} needs {padding} padding groups beside num_key_value_heads {groups}, "
            f"at most {groups} are made; sizes that fit: {fit}"
        )
    if ffn % tensor:
        problems.append(f"intermediate_size {ffn} is not a multiple of tensor_model_parallel_size {tensor}")
    if arch.num_layers % pipeline:
        problems.append(f"{arch.num_layers} layers are not a multiple of pipeline_model_parallel_size {pipeline}")
    if parallel.expert_model_parallel_size > 1:
        problems.append(
            f"expert_model_parallel_size {parallel.expert_model_parallel_size}: {arch.model_type} has no experts"
        )
    if parallel.context_parallel_size > 1:
        problems.append(f"context_parallel_size {parallel.context_parallel_size} is not supported; 1 is")
    if parallel.sequence_parallel and tensor == 1:
        problems.append("sequence_parallel needs tensor_model_parallel_size > 1")
    return problems


def padding_note(arch: Architecture, parallel: ParallelConfig) -> str | None:
    """Say what this layout computes in vain to get equal shares of attention; None where it needn't."""
    padding, groups = arch.padding_groups(parallel.tensor_model_parallel_size), arch.num_query_groups
    if not padding:
        return None
    return (
        f"{padding} zero padding group{'s' * (padding > 1)} beside {groups} key/value heads in every layer, for TP "
        f"{parallel.tensor_model_parallel_size}: the same numbers, attention x {(groups + padding) / groups:.2f}"
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _has_scalar_head(config: Mapping[str, Any], family: _Family) -> bool:
    return config.get("architectures") == [family.scalar_class_name]


def _num_labels(config: Mapping[str, Any]) -> int:
    """Return how many outputs transformers would give a classification head: two, where nothing is said."""
    return int(config.get("num_labels") or len(config.get("id2label") or (0, 1)))


def _unsupported(config: Mapping[str, Any], family: _Family) -> list[str]:
    layers = config.get("num_hidden_layers", 0)
    window = config.get("use_sliding_window") and config.get("max_window_layers", 0) < layers
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        (
            "architectures",
            lambda v: v in (None, [family.class_name], [family.scalar_class_name]),
            f"only [{family.class_name}] or [{family.scalar_class_name}]",
        ),
        (
            "id2label",
            lambda _: not _has_scalar_head(config, family) or _num_labels(config) == 1,
            "a reward model has one output (num_labels=1)",
        ),
        ("hidden_act", lambda v: v in (None, "silu"), "only silu"),
        ("attention_dropout", lambda v: not v, "only 0"),
        ("attention_bias", lambda v: not v or (family.qkv_bias and v is True), "only false"),
        ("mlp_bias", lambda v: not v, "only false"),
        ("pretraining_tp", lambda v: v in (None, 1), "only 1"),
        ("rope_interleaved", lambda v: not v, "only false"),
        ("use_sliding_window", lambda v: not window, "sliding-window attention is not supported"),
        ("layer_types", lambda v: set(v or ()) <= {"full_attention"}, "only full_attention"),
    ]
    if "use_sliding_window" not in config:  # Mistral-style: a window without a switch is in use
        rules.append(("sliding_window", lambda v: not v, "sliding-window attention is not supported"))
    if family.head_dim_required:
        rules.append(("head_dim", lambda v: v is not None, "must be given"))
    problems = [f"{key}={config.get(key)!r} ({limit})" for key, ok, limit in rules if not ok(config.get(key))]
    known = _READ | _INERT
    # A falsy unknown field switches nothing on; a leading underscore is transformers' own book-keeping.
    unknown = sorted(key for key, value in config.items() if key not in known and value and not key.startswith("_"))
    return problems + [f"unknown field {key}={config[key]!r}" for key in unknown]


def _rope(config: Mapping[str, Any]) -> tuple[float, Llama3Scaling | None, list[str]]:
    """Return rotary base, scaling and what is wrong with them."""
    rope: dict[str, Any] = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", config.get("rope_theta", 10000.0))
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    if not isinstance(theta, int | float) or theta <= 0:
        return 1.0, None, [f"rope_theta must be a positive number, got {theta!r}"]
    if kind == "default":
        return (
            float(theta),
            None,
            [f"rope field {key}={value!r} of type default" for key, value in rope.items() if value],
        )
    if kind != "llama3":
        return float(theta), None, [f"rope_type {kind!r} (only default and llama3)"]
    fields = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    problems = [f"rope field {key} is missing" for key in fields if not isinstance(rope.get(key), int | float)]
    problems += [f"unknown rope field {key}={value!r}" for key, value in rope.items() if key not in fields and value]
    if problems:
        return float(theta), None, problems
    return float(theta), Llama3Scaling(**{key: rope[key] for key in fields}), []
