"""Published peaks of memory as jobs: what each project keeps in which number format, as its sources say."""

from dataclasses import dataclass, replace

from nemo_cascade.planner.job import Job
from nemo_cascade.planner.published.functional_rows import functional_job
from nemo_cascade.planner.published.train_rows import Row, Unread, train_job
from nemo_cascade.planner.quantity import Peak


@dataclass(frozen=True, slots=True)
class PeakFigure:
    """A published peak, bytes."""

    asked: Peak
    peak: float


def peak_case(row: Row) -> PeakFigure | Unread:
    """Return the case of a row, or why there is none."""
    if row["kind"] == "golden":
        job = functional_job(row)
        if isinstance(job, Unread):
            return job
        peak = float(row["mem_max_allocated_bytes"])
        group = "Megatron tests, > 5 GB" if peak > 5e9 else "Megatron tests, small"
        return PeakFigure(Peak(job, (job.layout.pp - 1,), "allocated", group, peak <= 5e9), peak)
    notes = str(row.get("notes"))
    if row["kind"] != "train" or not (row.get("peak_mem_gib") or row.get("peak_mem_gb")):
        return Unread("no peak published")
    if "micro-batch size not given" in notes or "iteration 1" in notes or row.get("zero") == 2:
        return Unread("micro-batch not given, or not a step's peak, or ZeRO-2")
    if "ran out of memory" in notes and "iteration" in notes:
        return Unread("the run ended for lack of memory")
    job = train_job(row)
    if isinstance(job, Unread):
        return job
    peak = row["peak_mem_gib"] * 2**30 if row.get("peak_mem_gib") else row["peak_mem_gb"] * 1e9
    stages = (
        (job.layout.pp - 1,)
        if "rank 0" in str(row.get("peak_mem_kind")) and job.layout.pp == 1
        else (0, job.layout.pp - 1)
    )
    return _as_stored(row, job, stages, float(peak))


def _as_stored(row: Row, job: Job, stages: tuple[int, ...], peak: float) -> PeakFigure | Unread:
    framework, storage = str(row["framework"]), job.storage
    if framework.startswith("NeMo (MLPerf)"):
        # FP8 parameters: Hopper keeps a transposed copy, Blackwell doesn't; gradients are reduced in BF16.
        weight = 1.0 if job.lora or job.hardware.generation == "blackwell" else 2.0
        stored = replace(job, storage=replace(storage, weight=weight, gradient=2.0))
        return PeakFigure(Peak(stored, stages, "allocated", "MLPerf LoRA" if job.lora else "MLPerf pre-training"), peak)
    if framework.startswith("Megatron-Bridge"):
        # Performance recipes reduce gradients in BF16; those of experts keep Adam's moments in BF16, too.
        moments = 12.0 if job.shape.family == "dense" else 8.0
        stored = replace(job, storage=replace(storage, gradient=2.0, moments=moments))
        return PeakFigure(Peak(stored, stages, "allocated", "Bridge notes"), peak)
    if framework.startswith("DeepSpeed"):
        whole = replace(storage, whole=True, weight=2.0, gradient=2.0, moments=10.0)
        stored = replace(job, storage=whole, loss="chunked" if row.get("logits") else "plain")
        return PeakFigure(Peak(stored, stages, "reserved", "DeepSpeed"), peak)
    whole = replace(storage, whole=True, weight=4.0, gradient=4.0, moments=12.0)
    if framework.startswith("torchtitan"):
        # Since 2025 it compiles the loss as well, which then never holds the logits in fp32.
        compiled = bool(row.get("torch_compile")) and "_2024" not in str(row.get("version"))
        stored = replace(job, storage=whole, loss="fused" if compiled else "plain")
        return PeakFigure(Peak(stored, stages, "reserved", "torchtitan"), peak)
    if framework.startswith("prime"):
        loss = "plain" if row["task"] == "sft" else "chunked"
        stored = replace(job, storage=whole, loss=loss)  # type: ignore[arg-type]
        return PeakFigure(Peak(stored, stages, "reserved", "prime-rl LoRA" if job.lora else "prime-rl"), peak)
    return Unread("how the project stores its parameters isn't known")
