"""The declarative map between HF tensors and Megatron parameters: names, and how tensor parallelism cuts them.

One rule per kind of parameter. `{l}` stands for the layer. Import-light: no torch at run time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from nemo_cascade.models.architectures import Architecture

Shape = tuple[int, ...]


class Cut(StrEnum):
    """How tensor parallelism cuts a parameter, and how HF's tensors lie in it.

    WHOLE: every rank holds all of it. VOCAB: rows, padded at the end. COLUMNS: second dimension. GATE_UP: gate and up
    projection, each cut in rows, one above the other. QKV: per key/value group its query heads, its key and its value,
    one above the other; cut between groups, with zero groups at the end (`Architecture.padding_groups`). HEADS: second
    dimension, between groups, padded like QKV.
    """

    WHOLE = "whole"
    VOCAB = "vocab"
    COLUMNS = "columns"
    GATE_UP = "gate_up"
    QKV = "qkv"
    HEADS = "heads"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of parameter.

    Attributes:
        megatron: its names in Megatron (the layer implementations differ), with `{l}`.
        cut: how it is cut.
        hf: the HF tensors it is made of, in order.
    """

    megatron: tuple[str, ...]
    cut: Cut
    hf: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule applied to one layer: Megatron parameter (global layer number) and its HF tensors."""

    megatron: str
    cut: Cut
    hf: tuple[str, ...]


_M, _H = "decoder.layers.{l}.", "model.layers.{l}."
_ATTENTION = _M + "self_attention."

EMBEDDING = Rule(("embedding.word_embeddings.weight",), Cut.VOCAB, ("model.embed_tokens.weight",))
OUTPUT = Rule(("output_layer.weight",), Cut.VOCAB, ("lm_head.weight",))
SCORE = Rule(("output_layer.weight",), Cut.WHOLE, ("score.weight",))
_FINAL_NORM = Rule(("decoder.final_layernorm.weight",), Cut.WHOLE, ("model.norm.weight",))
_LAYER = (
    # Transformer Engine fuses each norm into the matrix behind it and names it after that.
    Rule(
        (_M + "input_layernorm.weight", _ATTENTION + "linear_qkv.layer_norm_weight"),
        Cut.WHOLE,
        (_H + "input_layernorm.weight",),
    ),
    Rule((_ATTENTION + "linear_qkv.weight",), Cut.QKV, tuple(_H + f"self_attn.{x}_proj.weight" for x in "qkv")),
    Rule((_ATTENTION + "linear_proj.weight",), Cut.HEADS, (_H + "self_attn.o_proj.weight",)),
    Rule(
        (_M + "pre_mlp_layernorm.weight", _M + "mlp.linear_fc1.layer_norm_weight"),
        Cut.WHOLE,
        (_H + "post_attention_layernorm.weight",),
    ),
    Rule(
        (_M + "mlp.linear_fc1.weight",),
        Cut.GATE_UP,
        (_H + "mlp.gate_proj.weight", _H + "mlp.up_proj.weight"),
    ),
    Rule((_M + "mlp.linear_fc2.weight",), Cut.COLUMNS, (_H + "mlp.down_proj.weight",)),
)
_QKV_BIAS = Rule((_ATTENTION + "linear_qkv.bias",), Cut.QKV, tuple(_H + f"self_attn.{x}_proj.bias" for x in "qkv"))
_QK_NORM = (
    Rule((_ATTENTION + "q_layernorm.weight",), Cut.WHOLE, (_H + "self_attn.q_norm.weight",)),
    Rule((_ATTENTION + "k_layernorm.weight",), Cut.WHOLE, (_H + "self_attn.k_norm.weight",)),
)


def rules(arch: Architecture) -> tuple[Rule, ...]:
    """Return the architecture's rules; a tied model's output layer is made of the embedding."""
    output = Rule(OUTPUT.megatron, OUTPUT.cut, EMBEDDING.hf) if arch.tied else OUTPUT
    output = SCORE if arch.head == "scalar" else output
    return (
        EMBEDDING,
        *_LAYER,
        *((_QKV_BIAS,) if arch.qkv_bias else ()),
        *(_QK_NORM if arch.qk_norm else ()),
        _FINAL_NORM,
        output,
    )


class WeightMap:
    """Looks up the entry of a Megatron parameter by its global name."""

    def __init__(self, arch: Architecture) -> None:
        self.arch = arch
        self._patterns = [
            (re.compile(re.escape(name).replace(r"\{l\}", r"(?P<l>\d+)") + "$"), rule)
            for rule in rules(arch)
            for name in rule.megatron
        ]

    def entry(self, name: str) -> Entry | None:
        """Return the entry of a parameter (global layer number), or None if no rule knows it."""
        for pattern, rule in self._patterns:
            found = pattern.match(name)
            if found:
                fields = found.groupdict()
                return Entry(name, rule.cut, tuple(hf.format(**fields) for hf in rule.hf))
        return None


def is_cut_between_groups(name: str) -> bool:
    """Tell whether a Megatron parameter is padded with groups; its layer number may be missing from the name."""
    return any(
        name.endswith(megatron.removeprefix(_M))
        for rule in (*_LAYER, _QKV_BIAS)
        if rule.cut in (Cut.QKV, Cut.HEADS)
        for megatron in rule.megatron
    )


def hf_shapes(arch: Architecture) -> dict[str, Shape]:
    """Return name and shape of every tensor of the whole HF model."""
    return dict(_hf_tensors(arch))


def _hf_tensors(arch: Architecture) -> Iterator[tuple[str, Shape]]:
    hidden, ffn = arch.hidden_size, arch.ffn_hidden_size
    heads, groups = arch.num_attention_heads * arch.head_dim, arch.num_query_groups * arch.head_dim
    by_suffix: Mapping[str, Shape] = {
        "embed_tokens.weight": (arch.vocab_size, hidden),
        "lm_head.weight": (arch.vocab_size, hidden),
        "q_proj.weight": (heads, hidden),
        "k_proj.weight": (groups, hidden),
        "v_proj.weight": (groups, hidden),
        "q_proj.bias": (heads,),
        "k_proj.bias": (groups,),
        "v_proj.bias": (groups,),
        "o_proj.weight": (hidden, heads),
        "gate_proj.weight": (ffn, hidden),
        "up_proj.weight": (ffn, hidden),
        "down_proj.weight": (hidden, ffn),
        "q_norm.weight": (arch.head_dim,),
        "k_norm.weight": (arch.head_dim,),
        "norm.weight": (hidden,),
        "layernorm.weight": (hidden,),
        "score.weight": (1, hidden),
    }

    def shape(name: str) -> Shape:
        return next(s for suffix, s in by_suffix.items() if name.endswith(suffix))

    every = rules(arch)
    layered = [rule for rule in every if "{l}" in rule.megatron[0]]
    first, last = every[0], [rule for rule in every[1:] if rule not in layered]
    for name in first.hf:
        yield name, shape(name)
    for layer in range(arch.num_layers):
        for rule in layered:
            for name in rule.hf:
                yield name.format(l=layer), shape(name)
    for rule in last:
        for name in rule.hf:
            if name not in first.hf:
                yield name, shape(name)
