"""NemotronH: each layer is one half, by a pattern of letters: Mamba-2, attention without positions, MLP or experts.

Nemotron Nano v2 9B and 12B (arXiv 2508.14444), Nemotron 3 Nano 4B and 30B-A3B (arXiv 2512.20848), Nemotron-Cascade 2.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import (
    Architecture,
    Attention,
    Dense,
    Embedding,
    Experts,
    Layer,
    LmHead,
    Mamba,
    RmsNorm,
    Router,
    ScoreHead,
)
from nemo_cascade.models.families.family import Family, Limit, Rule
from nemo_cascade.models.families.fields import COMMON, Fields, is_number, is_size
from nemo_cascade.models.families.layers import attention_rules, dense_rules, expert_rules, mamba_rules, norm_rule
from nemo_cascade.models.families.score_head import read_score_head, score_head_problems, write_score_head

_EPSILON = 1e-5
_LANGUAGE, _SCORES = "NemotronHForCausalLM", "NemotronHForSequenceClassification"
_LETTERS = {
    "mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E",
}  # fmt: skip
_NEEDED = {
    "M": ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel", "chunk_size"),
    "*": ("num_key_value_heads", "head_dim"),
    "-": ("intermediate_size",),
    "E": ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"),
}
# fmt: off
_FIELDS = COMMON | Fields(
    sizes=tuple(name for names in _NEEDED.values() for name in names if name not in COMMON.sizes),
    flags=(
        "use_bias", "mamba_proj_bias", "use_conv_bias", "norm_topk_prob", "residual_in_fp32",
    ),
    numbers=("layer_norm_epsilon", "norm_eps", "routed_scaling_factor", "hidden_dropout"),
    counts=(
        "n_shared_experts", "moe_shared_expert_intermediate_size", "n_group", "topk_group", "num_nextn_predict_layers",
        "moe_latent_size", "sliding_window",
    ),
    lists=("layers_block_type",),
    texts=("hybrid_override_pattern", "mlp_hidden_act", "mamba_hidden_act", "time_step_limit"),
    inert=(
        # How weights were drawn; the width is that of the heads, and there are no positions.
        "time_step_min", "time_step_max", "time_step_floor", "rescale_prenorm_residual", "expand", "rope_theta",
        # How others compute the same.
        "use_mamba_kernels", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap", "output_router_logits",
        # The pattern of heads for further tokens, of which there are none.
        "mtp_hybrid_override_pattern", "mtp_layers_block_type",
    ),
)
# fmt: on


class NemotronH(Family):
    """See the module."""

    model_type = "nemotron_h"
    embedding = "backbone.embeddings.weight"
    final_norm = "backbone.norm_f.weight"

    def read(self, config: Mapping[str, Any]) -> Architecture:
        """See `Family`; layers as a pattern, or as a list of names, old or new."""
        letters, problems = _pattern(config)
        problems += _FIELDS.malformed(config)
        wrong = [key for key in config if any(problem.startswith(f"{key} ") for problem in problems)]
        problems += _unsupported({key: value for key, value in config.items() if key not in wrong}, letters)
        problems += score_head_problems(config) if config.get("architectures") == [_SCORES] else []
        problems += [f"{key} is missing" for letter in set(letters) for key in _NEEDED[letter] if key not in config]
        if problems:
            raise ModelError(
                f"{len(problems)} thing(s) in this nemotron_h config can't be represented: " + "; ".join(problems),
                mend="a field that changes nothing may be taken out of config.json",
            )
        kinds = {letter: _layer(letter, config) for letter in set(letters)}
        architecture = Architecture(
            family=self.model_type,
            embedding=Embedding(config["vocab_size"], config["hidden_size"]),
            layers=tuple(kinds[letter] for letter in letters),
            norm=RmsNorm(float(config.get("layer_norm_epsilon", _EPSILON))),
            positions=None,
            head=LmHead(tied=False),
            max_position_embeddings=config["max_position_embeddings"],
        )
        scores = config.get("architectures") == [_SCORES]
        return architecture.with_score_head(read_score_head(config)) if scores else architecture

    def write(self, arch: Architecture) -> dict[str, Any]:
        """See `Family`; in the spelling of the released configs, which transformers and vLLM both read.

        A reward model is written as other families' are, although transformers has no such class of this one.
        """
        head: dict[str, Any] = {"architectures": [_LANGUAGE]}
        if isinstance(arch.head, ScoreHead):
            head = {"architectures": [_SCORES], **write_score_head(arch.head)}
        written: dict[str, Any] = {
            "model_type": self.model_type,
            **head,
            "hybrid_override_pattern": "".join(_letter(layer) for layer in arch.layers),
            "num_hidden_layers": len(arch.layers),
            "hidden_size": arch.hidden_size,
            "vocab_size": arch.vocab_size,
            "tie_word_embeddings": False,
            "layer_norm_epsilon": arch.norm.epsilon,
            "max_position_embeddings": arch.max_position_embeddings,
            "mlp_hidden_act": "relu2",
        }
        for part in (arch.attention or Attention(1, 1, 32), arch.mamba, arch.dense, arch.experts):
            written |= _written(part)
        return written

    def hf_name(self, engine: str) -> str:
        """See `Family`."""
        name = engine.replace(".embed_tokens.", ".embeddings.")
        name = f"{name}_log" if name.endswith(".mixer.A") else name
        return f"backbone.{name.removeprefix('model.')}" if name.startswith("model.") else name

    def layer_rules(self, arch: Architecture, number: int) -> Iterator[Rule]:
        """See `Family`."""
        layer, hidden = arch.layers[number], arch.hidden_size
        megatron, hf = f"decoder.layers.{number}.", f"backbone.layers.{number}."
        mixer, mlp, norm = hf + "mixer.", megatron + "mlp.", hf + "norm.weight"
        match layer:
            case Layer(mixer=Mamba() as mamba):
                own = megatron + "mixer."
                yield norm_rule(hidden, norm, megatron + "norm.weight", own + "in_proj.layer_norm_weight")
                yield from mamba_rules(mamba, hidden, own, mixer)
            case Layer(mixer=Attention() as attention):
                own = megatron + "self_attention."
                yield norm_rule(hidden, norm, megatron + "input_layernorm.weight", own + "linear_qkv.layer_norm_weight")
                yield from attention_rules(attention, hidden, own, mixer)
            case Layer(mlp=Dense() as dense):
                yield norm_rule(
                    hidden, norm, megatron + "pre_mlp_layernorm.weight", mlp + "linear_fc1.layer_norm_weight"
                )
                yield from dense_rules(dense, hidden, mlp, mixer)
            case Layer(mlp=Experts() as experts):
                yield norm_rule(hidden, norm, megatron + "pre_mlp_layernorm.weight")
                yield from expert_rules(experts, hidden, mlp, mixer)


def _pattern(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the layers' letters, and what is wrong with them."""
    listed, text = config.get("layers_block_type"), config.get("hybrid_override_pattern")
    letters, problems = "", []
    if isinstance(listed, list):
        unknown = sorted({str(name) for name in listed if name not in _LETTERS})
        problems += [f"layers_block_type {name!r} (only {', '.join(_LETTERS)})" for name in unknown]
        letters = "".join(_LETTERS.get(name, "") for name in listed)
    elif isinstance(text, str):
        letters = text
        if other := set(text) - set(_NEEDED):
            problems.append(f"hybrid_override_pattern {text!r} has {', '.join(sorted(other))} (only M, *, - and E)")
            letters = "".join(letter for letter in text if letter in _NEEDED)
    if not letters:
        return "", problems or ["hybrid_override_pattern (or layers_block_type) is missing"]
    if isinstance(listed, list) and isinstance(text, str) and text != letters:
        problems.append(f"layers_block_type says {letters}, hybrid_override_pattern {text}")
    number = config.get("num_hidden_layers", len(letters))
    if number != len(letters):
        problems.append(f"num_hidden_layers {number!r}, but the pattern {letters} has {len(letters)}")
    if not set(letters) & set("-E"):
        problems.append(f"the pattern {letters} has neither an MLP nor experts")
    return letters, problems


def _unsupported(config: Mapping[str, Any], letters: str) -> list[str]:
    experts = config.get("n_routed_experts") or 0
    epsilon = "only 1e-5: Megatron's Mamba mixer has it built in" if "M" in letters else "above 0"
    rules: list[Limit] = [
        ("architectures", lambda v: v in (None, [_LANGUAGE], [_SCORES]), f"only [{_LANGUAGE}] or [{_SCORES}]"),
        ("mlp_hidden_act", lambda v: v in (None, "relu2"), "only relu2"),
        ("mamba_hidden_act", lambda v: v in (None, "silu"), "only silu"),
        *((key, lambda v: not v, "only false") for key in ("attention_bias", "mlp_bias", "use_bias")),
        ("mamba_proj_bias", lambda v: not v, "only false"),
        ("use_conv_bias", lambda v: v in (None, True), "only true"),
        ("residual_in_fp32", lambda v: not v, "only false"),
        ("tie_word_embeddings", lambda v: not v, "only false: vLLM has no tied head of this family"),
        *((key, lambda v: not v, "only 0") for key in ("attention_dropout", "hidden_dropout")),
        ("layer_norm_epsilon", lambda v: v is None or v == _EPSILON or ("M" not in letters and v > 0), epsilon),
        ("sliding_window", lambda v: not v, "sliding-window attention is not supported"),
        ("time_step_limit", lambda v: v is None or _open(v), "only from 0 to infinity"),
        ("quantization_config", lambda v: not v, "the weights are quantised; give the checkpoint in bf16 or fp32"),
        ("moe_latent_size", lambda v: not v, "experts of a latent width are not supported"),
        ("num_nextn_predict_layers", lambda v: not v, "heads for further tokens are not supported"),
    ]
    if "E" in letters:
        rules += [
            ("norm_topk_prob", lambda v: v in (None, True), "only true"),
            *((key, lambda v: v in (None, 1), "only 1") for key in ("n_group", "topk_group")),
            ("n_shared_experts", lambda v: v in (None, 1), "only 1"),
            ("num_experts_per_tok", lambda v: v is None or 1 < v <= experts, f"2..{experts} = n_routed_experts"),
            ("moe_shared_expert_intermediate_size", lambda v: is_size(v), "above 0"),
        ]
    problems = [f"{key}={config.get(key)!r} ({limit})" for key, fits, limit in rules if not fits(config.get(key))]
    for name, heads, groups in (
        ("attention", config.get("num_attention_heads"), config.get("num_key_value_heads")),
        ("Mamba", config.get("mamba_num_heads"), config.get("n_groups")),
    ):
        if is_size(heads) and is_size(groups) and heads % groups:
            problems.append(f"{heads} {name} heads are not a multiple of {groups} groups")
    return problems + _FIELDS.unknown(config)


def _open(limits: Any) -> bool:
    """Tell whether the time step may be anything: up to infinity, however JSON came to spell it."""
    if not isinstance(limits, list | tuple) or len(limits) != 2:
        return False
    low, high = limits
    unlimited = high in (float("inf"), "Infinity", {"__float__": "Infinity"}) or (is_number(high) and high >= 1e300)
    return low == 0 and unlimited


def _layer(letter: str, config: Mapping[str, Any]) -> Layer:
    if letter == "M":
        heads, width, state, groups, kernel, chunk = (config[key] for key in _NEEDED["M"])
        return Layer(Mamba(heads, width, groups, state, kernel, chunk), None)
    if letter == "*":
        heads, groups, width = (config[key] for key in ("num_attention_heads", *_NEEDED["*"]))
        return Layer(Attention(heads, groups, width), None)
    if letter == "-":
        return Layer(None, Dense(config["intermediate_size"], "relu2"))
    router = Router("sigmoid", bias=True, scaling=float(config.get("routed_scaling_factor", 1.0)))
    count, chosen, width = (config[key] for key in _NEEDED["E"])
    shared = config["moe_shared_expert_intermediate_size"]
    return Layer(None, Experts(count, chosen, width, router, shared, "relu2"))


def _letter(layer: Layer) -> str:
    letters = {Mamba: "M", Attention: "*", Dense: "-", Experts: "E"}
    return letters[type(layer.mixer or layer.mlp)]


def _written(part: Attention | Mamba | Dense | Experts | None) -> dict[str, Any]:
    """Return the fields that a part is read from."""
    match part:
        case Attention():
            return {
                "num_attention_heads": part.heads,
                "num_key_value_heads": part.groups,
                "head_dim": part.head_dim,
            }
        case Mamba():
            return {
                "mamba_num_heads": part.heads,
                "mamba_head_dim": part.head_dim,
                "ssm_state_size": part.state,
                "n_groups": part.groups,
                "conv_kernel": part.kernel,
                "chunk_size": part.chunk,
            }
        case Dense():
            return {"intermediate_size": part.width}
        case Experts():
            return {
                "n_routed_experts": part.count,
                "num_experts_per_tok": part.chosen,
                "moe_intermediate_size": part.width,
                "n_shared_experts": 1,
                "moe_shared_expert_intermediate_size": part.shared_width,
                "routed_scaling_factor": part.router.scaling,
                "norm_topk_prob": True,
                "n_group": 1,
                "topk_group": 1,
            }
    return {}
