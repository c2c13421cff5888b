"""The rules of the parts that layers are made of: HF's names and shapes, Megatron's names, cuts. No torch here.

Each takes the part and the prefixes of its names; families differ in the prefixes.
"""

from collections.abc import Iterator

from nemo_cascade.models.architecture import Attention, Dense, Experts, Mamba
from nemo_cascade.models.cuts import Columns, GateUp, HeadColumns, Qkv, Rows, Segments, Shape, Whole
from nemo_cascade.models.families.family import Rule


def norm_rule(hidden: int, hf: str, *megatron: str) -> Rule:
    """Return the rule of a norm; Transformer Engine fuses it into the matrix behind it and names it after that."""
    return Rule(megatron, {hf: (hidden,)}, Whole())


def attention_rules(attention: Attention, hidden: int, megatron: str, hf: str) -> Iterator[Rule]:
    """Yield the rules of query, key, value and output projection, biases and norms of the heads."""
    rows = {"q": attention.heads * attention.head_dim}
    rows["k"] = rows["v"] = attention.groups * attention.head_dim

    def qkv(kind: str, *columns: int) -> Rule:
        hf_shapes: dict[str, Shape] = {f"{hf}{x}_proj.{kind}": (rows[x], *columns) for x in "qkv"}
        return Rule((f"{megatron}linear_qkv.{kind}",), hf_shapes, Qkv(attention))

    yield qkv("weight", hidden)
    yield Rule((megatron + "linear_proj.weight",), {hf + "o_proj.weight": (hidden, rows["q"])}, HeadColumns(attention))
    if attention.qkv_bias:
        yield qkv("bias")
    for x in "qk" if attention.qk_norm else "":
        yield norm_rule(attention.head_dim, f"{hf}{x}_norm.weight", f"{megatron}{x}_layernorm.weight")


def dense_rules(mlp: Dense, hidden: int, megatron: str, hf: str) -> Iterator[Rule]:
    """Yield the rules of gate and up, and of down."""
    names = ("gate", "up") if mlp.activation == "swiglu" else ("up",)
    up: dict[str, Shape] = {f"{hf}{x}_proj.weight": (mlp.width, hidden) for x in names}
    yield Rule((megatron + "linear_fc1.weight",), up, GateUp() if len(names) == 2 else Rows())
    yield Rule((megatron + "linear_fc2.weight",), {hf + "down_proj.weight": (hidden, mlp.width)}, Columns())


def expert_rules(experts: Experts, hidden: int, megatron: str, hf: str) -> Iterator[Rule]:
    """Yield the rules of router, experts and shared expert."""
    yield Rule((megatron + "router.weight",), {hf + "gate.weight": (experts.count, hidden)}, Whole())
    if experts.router.bias:
        bias: dict[str, Shape] = {hf + "gate.e_score_correction_bias": (experts.count,)}
        yield Rule((megatron + "router.expert_bias",), bias, Whole(), fp32=True)
    names = ("gate", "up") if experts.activation == "swiglu" else ("up",)
    fc1 = GateUp(axis="etp") if len(names) == 2 else Rows(axis="etp")
    for number in range(experts.count):
        own, grouped = f"{megatron}experts.local_experts.{number}.", megatron + "experts."
        one = f"{hf}experts.{number}."
        up: dict[str, Shape] = {f"{one}{x}_proj.weight": (experts.width, hidden) for x in names}
        yield Rule((own + "linear_fc1.weight", f"{grouped}linear_fc1.weight{number}"), up, fc1, expert=number)
        yield Rule(
            (own + "linear_fc2.weight", f"{grouped}linear_fc2.weight{number}"),
            {one + "down_proj.weight": (hidden, experts.width)},
            Columns(axis="etp"),
            expert=number,
        )
    if experts.shared_width:
        shared = Dense(experts.shared_width, experts.activation)
        yield from dense_rules(shared, hidden, megatron + "shared_experts.", hf + "shared_experts.")


def mamba_rules(mamba: Mamba, hidden: int, megatron: str, hf: str) -> Iterator[Rule]:
    """Yield the rules of a Mamba-2 mixer; heads and groups are dealt out to the ranks."""
    convolved = mamba.segments[1:4]
    yield Rule(
        (megatron + "in_proj.weight",),
        {hf + "in_proj.weight": (sum(mamba.segments), hidden)},
        Segments(mamba.segments),
    )
    # Since 0.17 Megatron holds the convolution's tensors itself.
    for kind, shape in (("weight", (mamba.convolved, 1, mamba.kernel)), ("bias", (mamba.convolved,))):
        names = (f"{megatron}conv1d.{kind}", f"{megatron}conv1d_{kind}")
        yield Rule(names, {f"{hf}conv1d.{kind}": shape}, Segments(convolved))
    for name in ("A_log", "D", "dt_bias"):
        yield Rule((megatron + name,), {hf + name: (mamba.heads,)}, Rows(), fp32=name == "A_log")
    yield Rule((megatron + "norm.weight",), {hf + "norm.weight": (mamba.inner,)}, Rows())
    yield Rule((megatron + "out_proj.weight",), {hf + "out_proj.weight": (hidden, mamba.inner)}, Columns())
