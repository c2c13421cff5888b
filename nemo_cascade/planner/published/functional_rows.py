"""Megatron-LM's functional tests as jobs: their arguments, and the peaks that their golden values hold."""

import re
from collections.abc import Mapping
from typing import Any

from nemo_cascade.config.layout import Layout
from nemo_cascade.planner.job import Job, Recompute, Software, Storage, dealt_layers
from nemo_cascade.planner.published.tables import hardware_named
from nemo_cascade.planner.published.train_rows import Row, Unread
from nemo_cascade.planner.shape import Shape, shape_from_sizes

_OTHER = (
    "grpo", "inference", "bert", "t5", "mimo", "llava", "multimodal", "flextron", "modelopt", "retro", "vlm", "QAD",
    "reruns", "fsdp",
)  # fmt: skip


class _Arguments:
    """A command line's values: numbers and switches, some of them strings."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def on(self, key: str) -> bool:
        """Tell whether a switch is set."""
        return str(self.values.get(key, "false")).split()[0].lower() == "true"

    def number(self, key: str, otherwise: int = 0) -> int:
        """Return a number."""
        value = self.values.get(key)
        return otherwise if value is None or value is True else int(str(value).split()[0])

    def text(self, *keys: str) -> str:
        """Return the first of several that is given; empty where none is."""
        return next((str(self.values[key]) for key in keys if self.values.get(key)), "")


def functional_job(row: Row) -> Job | Unread:
    """Return the job of a functional test, or why there is none."""
    a = _Arguments(row["args"])
    hardware = hardware_named(str(row["hardware"]))
    if any(word in row["model"] for word in _OTHER) or not a.number("num-layers") or not a.number("seq-length"):
        return Unread("not a decoder's plain training")
    if a.text("data-parallel-sharding-strategy") or a.on("use-megatron-fsdp") or a.on("use-torch-fsdp2"):
        return Unread("sharded by FSDP inside a test")
    if hardware is None or not row.get("nodes") or not row.get("mem_max_allocated_bytes"):
        return Unread("machine, nodes or peak not published")
    shape, layout = _shape(str(row["model"]), a), _layout(row, a)
    micro_batch = a.number("micro-batch-size", 1)
    low = bool(a.text("fp8-format") or a.text("fp8-hybrid"))
    layers = a.number("recompute-num-layers") if a.text("recompute-method") == "block" else 0
    granularity = a.text("recompute-granularity")
    modules = re.sub(r"[\[\]]", "", a.text("recompute-modules") or "core_attn").replace(",", " ").split()
    dealt = a.text("pipeline-model-parallel-layout").split("#")[0]
    return Job(
        shape=shape,
        hardware=hardware,
        layout=layout,
        sequence=a.number("seq-length"),
        micro_batch=micro_batch,
        micro_batches=max(1, round(a.number("global-batch-size", 8) / (layout.dp * micro_batch))),
        precision="fp8" if low else "bf16",
        recompute=Recompute(granularity == "full", layers, frozenset(modules if granularity == "selective" else ())),
        storage=Storage(gradient=2.0 if a.on("fp16") else 4.0, sharded=a.on("use-distributed-optimizer")),
        loss="fused" if a.on("cross-entropy-loss-fusion") else "megatron",
        software=Software(name="Megatron-LM tests", tuned=False),
        dealt=dealt_layers(dealt) if dealt else (),
    )


def _layout(row: Row, a: _Arguments) -> Layout:
    tp, pp = a.number("tensor-model-parallel-size", 1), a.number("pipeline-model-parallel-size", 1)
    cp, ep = a.number("context-parallel-size", 1), a.number("expert-model-parallel-size", 1)
    gpus = int(row["nodes"]) * int(row["gpus_per_node"])
    per_chunk = a.number("num-layers-per-virtual-pipeline-stage")
    vpp = max(
        a.number("num-virtual-stages-per-pipeline-rank", 1),
        a.number("num-layers") // pp // per_chunk if per_chunk else 1,
    )
    if dealt := a.text("pipeline-model-parallel-layout").split("#")[0]:
        vpp = max(vpp, len(dealt_layers(dealt)) // pp)
    return Layout(
        tp=tp, pp=pp, vpp=vpp, cp=cp, dp=max(1, (8 if gpus == 1 else gpus) // (tp * pp * cp)), ep=ep,
        etp=a.number("expert-tensor-parallel-size", tp) if a.number("num-experts") else 1,
        sp=a.on("sequence-parallel"),
    )  # fmt: skip


def _shape(name: str, a: _Arguments) -> Shape:
    hidden, heads, gated = a.number("hidden-size"), a.number("num-attention-heads", 1), a.on("swiglu")
    width = a.number("ffn-hidden-size") or (int(4 * hidden * 2 / 3 / 64) * 64 if gated else 4 * hidden)
    sizes: dict[str, Any] = {
        "hidden": hidden,
        "layers": a.number("num-layers"),
        "heads": heads,
        "groups": a.number("num-query-groups", heads) if a.on("group-query-attention") else heads,
        "head_dim": a.number("kv-channels") or hidden // heads,
        "width": width,
        "gated": gated,
        "vocabulary": _vocabulary(name, a),
        "tied": not a.on("untie-embeddings-and-output-weights"),
        "predicted": a.number("mtp-num-layers"),
    }
    if a.values.get("position-embedding-type", "learned_absolute") == "learned_absolute":
        sizes["positions"] = a.number("max-position-embeddings")
    if count := a.number("num-experts"):
        sizes["experts"] = {
            "count": count,
            "topk": a.number("moe-router-topk", 2),
            "width": a.number("moe-ffn-hidden-size") or width,
            "shared": a.number("moe-shared-expert-intermediate-size"),
            "latent": a.number("moe-latent-size"),
        }
        leading = re.match(r"\(\[0\]\*(\d+)", a.text("moe-layer-freq"))
        sizes["dense_layers"] = int(leading[1]) if leading else 0
    if a.on("multi-latent-attention"):
        defaults = {
            "q-lora-rank": 0,
            "kv-lora-rank": 32,
            "qk-pos-emb-head-dim": 64,
            "qk-head-dim": 128,
            "v-head-dim": 128,
        }
        sizes["latent_attention"] = [a.number(key, otherwise) for key, otherwise in defaults.items()]
    if pattern := a.text("hybrid-layer-pattern", "hybrid-override-pattern"):
        letters = pattern.split("/")[0].replace("*", "A").replace("-", "D").replace("|", "")
        heads_of_state = a.number("mamba-num-heads") or 2 * hidden // 64
        others = a.number("mamba-head-dim", 64), a.number("mamba-state-dim", 128), a.number("mamba-num-groups", 8)
        sizes |= {"pattern": letters, "mamba": [heads_of_state, *others]}
    return shape_from_sizes(name, sizes)


def _vocabulary(name: str, a: _Arguments) -> int:
    """Return the padded vocabulary; tokenizers that tests don't name the size of are known by the test's name."""
    rows = a.number("vocab-size") or (256000 if "8t_release" in name else 50257)
    if "mixtral" in name and not a.number("vocab-size"):
        rows = 129280 if "proxy" in name else 32000
    if "nemotron" in name:
        rows = 131072
    unit = a.number("make-vocab-size-divisible-by", 128) * a.number("tensor-model-parallel-size", 1)
    return -(-rows // unit) * unit
