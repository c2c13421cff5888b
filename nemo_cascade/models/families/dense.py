"""Decoders of Llama's build: RMSNorm, rotary positions, grouped-query attention, SwiGLU. No torch here."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import (
    Architecture,
    Attention,
    Dense,
    Embedding,
    Layer,
    LayerNorm,
    LmHead,
    Mlp,
    RmsNorm,
    ScoreHead,
)
from nemo_cascade.models.families.family import Family, Limit, Rule
from nemo_cascade.models.families.fields import DENSE, Fields
from nemo_cascade.models.families.layers import attention_rules, dense_rules, expert_rules, norm_rule
from nemo_cascade.models.families.rotary import read_rotary, write_rotary
from nemo_cascade.models.families.score_head import read_score_head, score_head_problems, write_score_head


class DenseFamily(Family):
    """What these families share; each says in class variables, or in a method of its own, how it differs."""

    class_name: ClassVar[str]
    """HF's class of its language model."""
    fields: ClassVar[Fields] = DENSE
    """What its config may say."""
    qk_norm: ClassVar[bool] = False
    """RMSNorm over each query and key head."""
    qkv_bias: ClassVar[bool] = False
    """Bias in the query, key and value projections."""
    head_dim_required: ClassVar[bool] = False
    """The head's width isn't hidden_size / heads where nothing is said."""
    hidden_act: ClassVar[str] = "silu"
    """HF's name of the function between the MLP's matrices."""
    partial_rotary: ClassVar[float | None] = None
    """Of each head, the fraction that turns where nothing is said; None: heads turn as a whole."""
    window_field: ClassVar[str] = "sliding_window"
    """The field that is named where a window is refused."""

    @property
    def score_class_name(self) -> str:
        """HF's class of the same decoder with a classification head."""
        return self.class_name.replace("CausalLM", "SequenceClassification")

    def has_window(self, config: Mapping[str, Any]) -> bool:
        """Tell whether some layer attends to a window only, or would for another reader of the same config."""
        return bool(config.get("sliding_window"))

    def own_fields(self) -> dict[str, Any]:
        """Return what its config has to say beside the sizes."""
        return {}

    def read_norm(self, config: Mapping[str, Any]) -> RmsNorm | LayerNorm:
        """Return the norm of all layers."""
        return RmsNorm(float(config.get("rms_norm_eps", 1e-6)))

    def write_norm(self, norm: RmsNorm | LayerNorm) -> dict[str, Any]:
        """Return the fields that `read_norm` reads."""
        return {"rms_norm_eps": norm.epsilon}

    def read_mlp(self, config: Mapping[str, Any]) -> Mlp:
        """Return the MLP of every layer."""
        return Dense(config["intermediate_size"], "relu2" if self.hidden_act == "relu2" else "swiglu")

    def write_mlp(self, mlp: Mlp) -> dict[str, Any]:
        """Return the fields that `read_mlp` reads."""
        return {"intermediate_size": mlp.width}

    def read(self, config: Mapping[str, Any]) -> Architecture:
        """See `Family`; old and new spelling of the rotary fields."""
        positions, problems = read_rotary(config, self.partial_rotary)
        problems = [*self._problems(config), *problems]
        if problems:
            raise ModelError(
                f"{len(problems)} thing(s) in this {config.get('model_type')} config can't be represented: "
                + "; ".join(problems),
                mend="a field that changes nothing may be taken out of config.json",
            )
        heads = config["num_attention_heads"]
        attention = Attention(
            heads=heads,
            groups=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            qk_norm=self.qk_norm,
            qkv_bias=self.qkv_bias,
        )
        layer = Layer(attention, self.read_mlp(config))
        architecture = Architecture(
            family=self.model_type,
            embedding=Embedding(config["vocab_size"], config["hidden_size"]),
            layers=(layer,) * config["num_hidden_layers"],
            norm=self.read_norm(config),
            positions=positions,
            head=LmHead(tied=bool(config.get("tie_word_embeddings", False))),
            max_position_embeddings=config["max_position_embeddings"],
        )
        return architecture.with_score_head(read_score_head(config)) if self._has_score_head(config) else architecture

    def write(self, arch: Architecture) -> dict[str, Any]:
        """See `Family`."""
        (layer,) = arch.kinds
        attention = layer.mixer
        assert isinstance(attention, Attention), "of a layer that this family read"
        assert layer.mlp is not None, "likewise"
        assert arch.positions is not None, "likewise"
        head: dict[str, Any] = {"architectures": [self.class_name], "tie_word_embeddings": arch.tied}
        if isinstance(arch.head, ScoreHead):
            head = {"architectures": [self.score_class_name], **write_score_head(arch.head)}
        return {
            "model_type": self.model_type,
            **head,
            "num_hidden_layers": len(arch.layers),
            "hidden_size": arch.hidden_size,
            "num_attention_heads": attention.heads,
            "num_key_value_heads": attention.groups,
            "head_dim": attention.head_dim,
            "vocab_size": arch.vocab_size,
            **self.write_norm(arch.norm),
            "max_position_embeddings": arch.max_position_embeddings,
            **self.write_mlp(layer.mlp),
            **write_rotary(arch.positions, self.partial_rotary),
            **self.own_fields(),
        }

    def layer_rules(self, arch: Architecture, number: int) -> Iterator[Rule]:
        """See `Family`."""
        layer, hidden = arch.layers[number], arch.hidden_size
        assert isinstance(layer.mixer, Attention), "of a layer that this family read"
        megatron, hf = f"decoder.layers.{number}.", f"model.layers.{number}."
        mixer, mlp = megatron + "self_attention.", megatron + "mlp."
        norms = (hf + "input_layernorm.weight", hf + "post_attention_layernorm.weight")
        yield norm_rule(hidden, norms[0], megatron + "input_layernorm.weight", mixer + "linear_qkv.layer_norm_weight")
        yield from attention_rules(layer.mixer, hidden, mixer, hf + "self_attn.")
        yield norm_rule(hidden, norms[1], megatron + "pre_mlp_layernorm.weight", mlp + "linear_fc1.layer_norm_weight")
        if isinstance(layer.mlp, Dense):
            yield from dense_rules(layer.mlp, hidden, mlp, hf + "mlp.")
        elif layer.mlp is not None:
            yield from expert_rules(layer.mlp, hidden, mlp, hf + "mlp.")

    def _has_score_head(self, config: Mapping[str, Any]) -> bool:
        return config.get("architectures") == [self.score_class_name]

    def _problems(self, config: Mapping[str, Any]) -> list[str]:
        """Return every field that is missing, malformed or unsupported, but for the rotary ones."""
        if problems := self.fields.malformed(config):
            # What is malformed can't be compared; what is unsupported beside it is still told.
            wrong = [key for key in config if any(problem.startswith(f"{key} ") for problem in problems)]
            sound = {key: value for key, value in config.items() if key not in wrong}
            return problems + self._unsupported({"num_hidden_layers": 0, **sound})
        if problems := self._unsupported(config):
            return problems
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        groups = config.get("num_key_value_heads") or heads
        if heads % groups:
            problems.append(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}")
        if not config.get("head_dim") and hidden % heads:
            problems.append(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        return problems

    def own_limits(self) -> list[Limit]:
        """Return what its own fields may say."""
        return []

    def _unsupported(self, config: Mapping[str, Any]) -> list[str]:
        rules: list[Limit] = [
            *self.own_limits(),
            (
                "architectures",
                lambda v: v in (None, [self.class_name], [self.score_class_name]),
                f"only [{self.class_name}] or [{self.score_class_name}]",
            ),
            ("hidden_act", lambda v: v in (None, self.hidden_act), f"only {self.hidden_act}"),
            ("attention_dropout", lambda v: not v, "only 0"),
            ("attention_bias", lambda v: not v or (self.qkv_bias and v is True), "only false"),
            ("mlp_bias", lambda v: not v, "only false"),
            ("pretraining_tp", lambda v: v in (None, 1), "only 1"),
            ("rope_interleaved", lambda v: not v, "only false"),
            ("layer_types", lambda v: set(v or ()) <= {"full_attention"}, "only full_attention"),
            ("quantization_config", lambda v: not v, "the weights are quantised; give the checkpoint in bf16 or fp32"),
            (self.window_field, lambda _: not self.has_window(config), "sliding-window attention is not supported"),
        ]
        if self.head_dim_required:
            rules.append(("head_dim", lambda v: v is not None, "must be given"))
        problems = [f"{key}={config.get(key)!r} ({limit})" for key, ok, limit in rules if not ok(config.get(key))]
        problems += score_head_problems(config) if self._has_score_head(config) else []
        return problems + self.fields.unknown(config)


class SwitchedWindow(DenseFamily):
    """A dense family whose window is in use where `use_sliding_window` is on and some layer lies above its limit."""

    window_field = "use_sliding_window"

    def has_window(self, config: Mapping[str, Any]) -> bool:
        """See `DenseFamily`."""
        switched_on = bool(config.get("use_sliding_window"))
        return switched_on and config.get("max_window_layers", 0) < config["num_hidden_layers"]
