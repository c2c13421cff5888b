"""Nemotron-4 and Minitron (arXiv 2406.11704, 2407.14679): squared ReLU, layer norms, half of each head turns."""

from collections.abc import Iterator, Mapping
from typing import Any

from nemo_cascade.models.architecture import Architecture, Attention, Dense, LayerNorm, RmsNorm
from nemo_cascade.models.cuts import Whole
from nemo_cascade.models.families.dense import DenseFamily
from nemo_cascade.models.families.family import Rule
from nemo_cascade.models.families.fields import DENSE, Fields
from nemo_cascade.models.families.layers import attention_rules, dense_rules


class Nemotron(DenseFamily):
    """See the module. HF and Megatron both store the norms' weights less one."""

    model_type = "nemotron"
    class_name = "NemotronForCausalLM"
    hidden_act = "relu2"
    partial_rotary = 0.5
    fields = DENSE | Fields(numbers=("norm_eps",))

    def read_norm(self, config: Mapping[str, Any]) -> RmsNorm | LayerNorm:
        """See `DenseFamily`."""
        return LayerNorm(float(config.get("norm_eps", 1e-5)))

    def write_norm(self, norm: RmsNorm | LayerNorm) -> dict[str, Any]:
        """See `DenseFamily`."""
        return {"norm_eps": norm.epsilon}

    def own_fields(self) -> dict[str, Any]:
        """See `DenseFamily`."""
        return {"hidden_act": self.hidden_act}

    def final_norm_rules(self, arch: Architecture) -> Iterator[Rule]:
        """See `Family`."""
        yield from _norm(arch.hidden_size, "model.norm.", "decoder.final_layernorm.")

    def layer_rules(self, arch: Architecture, number: int) -> Iterator[Rule]:
        """See `Family`."""
        layer, hidden = arch.layers[number], arch.hidden_size
        assert isinstance(layer.mixer, Attention), "of a layer that this family read"
        assert isinstance(layer.mlp, Dense), "likewise"
        megatron, hf = f"decoder.layers.{number}.", f"model.layers.{number}."
        mixer, mlp = megatron + "self_attention.", megatron + "mlp."
        # Transformer Engine fuses each norm into the matrix behind it and names it after that.
        yield from _norm(
            hidden, hf + "input_layernorm.", megatron + "input_layernorm.", mixer + "linear_qkv.layer_norm_"
        )
        yield from attention_rules(layer.mixer, hidden, mixer, hf + "self_attn.")
        yield from _norm(
            hidden,
            hf + "post_attention_layernorm.",
            megatron + "pre_mlp_layernorm.",
            mlp + "linear_fc1.layer_norm_",
        )
        yield from dense_rules(layer.mlp, hidden, mlp, hf + "mlp.")


def _norm(hidden: int, hf: str, *megatron: str) -> Iterator[Rule]:
    """Yield the rules of a norm's weight and bias."""
    for kind in ("weight", "bias"):
        yield Rule(tuple(name + kind for name in megatron), {hf + kind: (hidden,)}, Whole())
