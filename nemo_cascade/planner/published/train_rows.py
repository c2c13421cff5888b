"""Published training steps as jobs.

A row is JSON: task, framework, version, model, hardware, n_gpus, precision, seq_len, gbs, mbs, tp, pp, cp, ep, etp,
vpp, fsdp, recompute, and where known cuda_graph, moe_dispatcher, moe_a2a_overlap, attention, pp_layout, ...
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_cascade.config.layout import Layout
from nemo_cascade.planner.job import Job, Precision, Recompute, Software, Storage, dealt_layers
from nemo_cascade.planner.published.tables import hardware_named, shape_named
from nemo_cascade.planner.shape import Shape

Row = Mapping[str, Any]

_SHARDED = ("prime", "torchtitan", "DeepSpeed", "llm-foundry", "Transformers")
_UNTUNED = (
    "Bridge functional SFT", "Bridge functional card", "Bridge on EFA", "Bridge other", "prime-rl", "prime-rl LoRA",
    "Transformers v5", "DeepSpeed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unread:
    """A row that can't be predicted, and why."""

    reason: str


def train_job(row: Row) -> Job | Unread:
    """Return the job of a row, or why there is none."""
    shape, hardware = shape_named(str(row.get("model", ""))), hardware_named(str(row.get("hardware")))
    if shape is None or hardware is None:
        return Unread(f"no {'sizes of the model' if shape is None else 'figures of the machine'} are known")
    lacking = [key for key in ("n_gpus", "seq_len", "gbs", "mbs", "tp") if row.get(key) is None]
    if lacking:
        return Unread(f"{', '.join(lacking)} not published")
    if row.get("num_layers_used"):
        return Unread("a model with layers left out")
    if row.get("collection") == "mlperf" and not row.get("precision"):
        return Unread("FP8 or FP4: the log doesn't say")
    layout = _layout(row)
    micro_batches = max(1, round(row["gbs"] / (layout.dp * row["mbs"])))
    return Job(
        shape=shape,
        hardware=hardware,
        layout=layout,
        sequence=int(row["seq_len"]),
        micro_batch=int(row["mbs"]),
        micro_batches=micro_batches,
        precision=_precision(row.get("precision"), hardware.generation),
        task=str(row.get("task") or "pretrain"),
        recompute=_recompute(row),
        storage=Storage(
            whole=_fsdp(row) > 0,
            gathers_once=row.get("zero") == 2 or row.get("sharding") == "SHARD_GRAD_OP",
            offloaded="CPU" in str(row.get("offload") or ""),
        ),
        software=_software(row, shape),
        dealt=dealt_layers(str(row["pp_layout"])) if row.get("pp_layout") else (),
    )


def published_seconds(row: Row, job: Job) -> float | None:
    """Return a row's seconds a step; from its TFLOP/s, as its project counts them, where only those are published."""
    if row.get("step_time_s"):
        return float(row["step_time_s"])
    tokens = float(row["gbs"]) * row["seq_len"] / job.layout.ranks
    if row.get("tokens_per_s_per_gpu"):
        return float(tokens / row["tokens_per_s_per_gpu"])
    if not row.get("tflops_per_gpu"):
        return None
    counted = job.sequence * (2 if row["framework"] == "NeMo" else 1)  # NeMo counts attention without the causal half
    per_token = job.shape.flops(counted, predicts=bool(row.get("mtp", True)))
    return float(tokens * per_token / (row["tflops_per_gpu"] * 1e12))


def _layout(row: Row) -> Layout:
    def size(key: str) -> int:
        return int(row.get(key) or 1)

    tp, pp, cp, ranks = size("tp"), size("pp"), size("cp"), int(row["n_gpus"])
    notes = str(row.get("notes"))
    if "layout as printed: dp=" in notes and ranks > tp * pp * cp * row["gbs"] / row["mbs"]:
        ranks = tp * pp * cp * int(notes.split("dp=")[1])  # more GPUs are printed than the batch can use
    dp = max(1, ranks // (tp * pp * cp))
    return Layout(tp=tp, pp=pp, vpp=size("vpp"), cp=cp, dp=dp, ep=size("ep"), etp=size("etp"), sp=tp > 1)


def _precision(text: str | None, generation: str) -> Precision:
    name = (text or "bf16").lower()
    if generation == "ampere":
        return "bf16"
    if "nvfp4" in name:
        return "nvfp4"
    if "mx" in name and generation == "blackwell":
        return "mxfp8"
    return "fp8" if "fp8" in name else "bf16"


def _fsdp(row: Row) -> int:
    framework, printed = str(row["framework"]), int(row.get("fsdp") or 0)
    if framework.startswith(_SHARDED):
        return printed or int(row["n_gpus"]) // (int(row.get("tp") or 1) * int(row.get("pp") or 1))
    if row.get("megatron_fsdp") or row.get("use_megatron_fsdp"):
        return printed or 1
    if framework.startswith("NeMo") and "AutoModel" not in framework:
        return printed if printed > 1 else 0
    return printed


def _recompute(row: Row) -> Recompute:
    text = str(row.get("recompute") or "none").replace(":", "+").replace(" ", "+")
    modules = {"per_op"} if "per-op" in text else set(text.split("+")) - {"none", "selective", "recipe", ""}
    whole = text.startswith(("full", "recipe"))
    return Recompute(whole, int(row.get("recompute_num_layers") or 0), frozenset(modules), "offload" in text)


def _software(row: Row, shape: Shape) -> Software:
    impl, scope = str(row.get("cuda_graph") or row.get("cuda_graph_impl") or "none"), row.get("cuda_graph_scope")
    held = str(scope or "") if impl != "none" or "full_iteration" in str(scope) else ""
    named = held + (impl if impl != "none" else "")
    # MLPerf submissions from v5 on capture their layers; the logs don't repeat it.
    captured = named or ("MLPerf" in str(row["framework"]) and str(row.get("version")) >= "MLPerf training v5")
    graph = "full" if "full" in named else "router" if "router" in named else "attention" if captured else ""
    flex = f"{row.get('moe_dispatcher') or ''}{row.get('moe_flex_dispatcher_backend') or ''}".lower()
    overlaps = row.get("moe_a2a_overlap") or row.get("overlap_moe_expert_parallel_comm")
    deduplicated = "hybrid" in flex or "deepep" in flex
    name = software_name(row, shape)
    attention, framework = str(row.get("attention") or ""), str(row["framework"])
    fa2 = "2" in attention or framework.startswith(("llm-foundry", "torchtitan"))
    return Software(
        name=name,
        release=str(row.get("version") or ""),
        graph=graph,  # type: ignore[arg-type]
        dispatcher="overlapped" if overlaps else "deduplicated" if deduplicated else "plain",
        capped=row.get("moe_tokens") == "drop",
        kernel="fp8" if row.get("fp8_attention") else "fa3" if "3" in attention else "fa2" if fa2 else "cudnn",
        efa="EFA" in str(row.get("fabric")),
        tuned=name not in _UNTUNED,
    )


def software_name(row: Row, shape: Shape) -> str:
    """Return the software of a row, as far as factors are kept apart."""
    framework, version = str(row["framework"]), str(row.get("version"))
    if "MLPerf" in framework:
        return "MLPerf"
    if framework.startswith("prime"):
        return "prime-rl LoRA" if row.get("task") == "lora" else "prime-rl"
    if framework == "Megatron-Bridge 0.4.2":
        return "Bridge on EFA"
    if framework == "Megatron-Bridge":
        tables = row.get("collection") == "bridge_tables"
        if tables:
            early = version < "NeMo 26.04" and shape.family != "dense"
            return "Bridge to 26.02, experts" if early else "Megatron-Bridge"
        if row.get("collection") == "cards":
            return "Bridge functional card" if row.get("task") == "pretrain" else "Bridge functional SFT"
        return "Bridge other"
    if framework == "NeMo":
        return "NeMo 24" if version.startswith("24") else "NeMo 25"
    if framework.startswith("torchtitan"):
        return "torchtitan compiled" if row.get("torch_compile") else "torchtitan"
    return framework.split(" (")[0].split(" ZeRO")[0]
