"""Read an HF config.json into the one description of a dense decoder that everything else works with.

Import-light: no torch. What this package can't represent faithfully is refused by name, all of it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import ModelError
from nemo_cascade.models.hf_config import FAMILIES, Llama3Scaling, field_problems, has_scalar_head, rotary

__all__ = ["FAMILIES", "Architecture", "Llama3Scaling", "architecture_from_hf", "read_architecture"]


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
        raise ModelError(
            "unsupported model_type",
            value=config.get("model_type"),
            limit=", ".join(sorted(FAMILIES)),
            mend="take a dense decoder of these families; no mixture of experts, no state space, no latent attention",
        )
    theta, scaling, problems = rotary(config)
    problems = [*field_problems(config, family), *problems]
    if problems:
        raise ModelError(
            f"{len(problems)} thing(s) in this {config['model_type']} config can't be represented: "
            + "; ".join(problems),
            mend="a field that changes nothing may be taken out of config.json",
        )
    heads = config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
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
    return architecture.with_scalar_head() if has_scalar_head(config, family) else architecture


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
    if padding and padding <= groups and not parallel.pad_attention_groups:
        problems.append(
            f"num_key_value_heads {groups} (of {groups * arch.heads_per_group} heads) is not a multiple of "
            f"tensor_model_parallel_size {tensor}; parallel.pad_attention_groups=true adds {padding} zero groups"
        )
    elif padding > groups:  # more attention would be computed in vain than for the model
        fit = ", ".join(str(size) for size in range(1, 2 * groups + 1) if ffn % size == 0)
        problems.append(
            f"num_key_value_heads {groups} (of {groups * arch.heads_per_group} heads) is not a multiple of "
            f"tensor_model_parallel_size {tensor}, which needs {padding} padding groups beside them, at most {groups} "
            f"are made; sizes that fit: {fit}"
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
