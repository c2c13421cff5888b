"""Nominal seconds of a training step, thing by thing: what a data sheet alone would say. `factors` corrects them.

Each term is FLOPs over the data sheet's peak, bytes over its bandwidth, or a count of blocks (so its factor is seconds
a block). FLOPs and volumes: `shape`; communication volumes of sequence parallelism as in arXiv 2205.05198, of context
parallelism as a ring over K and V (arXiv 2310.01889), of experts as all-to-all, top-k copies or one a node.
"""

from collections import defaultdict
from collections.abc import Mapping

from nemo_cascade.planner.job import Job, Software
from nemo_cascade.planner.shape import AttentionBlock, Block, ExpertsBlock, LatentAttentionBlock, MambaBlock

Terms = dict[str, float]
"""Nominal seconds, or counts, by name."""


def micro_batch_terms(job: Job, stage: int) -> Terms:
    """Return the terms of one micro-batch on a pipeline stage, forward and backward."""
    terms: Terms = defaultdict(float)
    layout, hardware = job.layout, job.hardware
    for chunk in job.chunks(stage):
        for block, count in chunk.items():
            for name, value in _block_terms(job, block).items():
                terms[name] += count * value
    if stage == layout.pp - 1:
        _output_terms(job, terms)
    if layout.pp > 1:
        wide = layout.tp * layout.cp * layout.pp > hardware.nvlink_domain
        moved = 4 * layout.vpp * job.shape.hidden * job.tokens / layout.tp
        terms["pp"] += moved / _bandwidth(job, wide)
    if job.storage.whole:
        _gather_terms(job, job.chunks(stage), terms)
    return dict(terms)


def step_terms(job: Job) -> Terms:
    """Return the terms that come once a step: gradients and parameters, the optimizer, a constant."""
    layout, hardware = job.layout, job.hardware
    dense, expert, table = (float(part) for part in job.shape.parameters)
    if job.lora:
        dense, expert, table = 0.004 * dense, 0.004 * expert, 0.0
    terms: Terms = {"step": 1.0}
    hbm = hardware.hbm_tb_per_s * 1e12
    if job.storage.whole:
        mine = (dense + expert + table) / layout.ranks
        if job.storage.offloaded:
            terms["offload"] = 16 * mine / 25e9
        else:
            terms["optimizer"] = 28 * mine / hbm
        return terms
    own_dense, own_expert = (dense + table) / layout.tp / layout.pp, expert / layout.ep / layout.etp / layout.pp
    shard = own_dense / job.replicas + own_expert / job.expert_replicas
    if not job.storage.sharded:
        shard = own_dense + own_expert
    terms["optimizer"] = (28 * shard + 8 * (own_dense + own_expert)) / hbm
    wide = layout.ranks / layout.pp > hardware.nvlink_domain
    moved = 6 * (own_dense * (1 - 1 / job.replicas) + own_expert * (1 - 1 / job.expert_replicas))
    terms["dp" if wide else "dp fast"] = moved / _bandwidth(job, wide)
    return terms


def peak_flops(job: Job) -> float:
    """Return the data sheet's FLOP/s of the job's matrix products."""
    hardware = job.hardware
    peaks = {"nvfp4": hardware.fp4_tflops, "fp8": hardware.fp8_tflops, "mxfp8": hardware.fp8_tflops}
    return peaks.get(job.precision, hardware.bf16_tflops) * 1e12


def _bandwidth(job: Job, wide: bool) -> float:
    return (job.hardware.network_gb_per_s if wide else job.hardware.nvlink_gb_per_s) * 1e9


def _block_terms(job: Job, block: Block) -> Mapping[str, float]:
    terms: Terms = defaultdict(float)
    layout, tokens = job.layout, job.tokens
    again = job.recompute.share(block)
    if job.recompute.whole and job.recompute.layers:
        again *= min(1.0, job.recompute.layers * layout.pp / len(job.shape.layers))
    passes = 1 + (1 if job.lora else 2) + again
    _compute_terms(job, block, terms, passes, again)
    if layout.tp > 1:
        hops = 2 + (2 if job.lora else 3) + 2 * again
        shared = 0.5 if isinstance(block, ExpertsBlock) and not block.shared else 1.0
        moved = 2 * block.hidden * tokens * (layout.tp - 1) / layout.tp * hops * shared
        terms["tp"] += moved / _bandwidth(job, layout.tp > job.hardware.nvlink_domain)
    if layout.cp > 1:
        terms["cp"] += _context_bytes(job, block, again) / _bandwidth(
            job, layout.tp * layout.cp > job.hardware.nvlink_domain
        )
    if isinstance(block, ExpertsBlock) and layout.ep > 1:
        _dispatch_terms(job, block, again, terms)
    _launch_terms(job, block, passes / 3, terms)
    return terms


def _compute_terms(job: Job, block: Block, terms: Terms, passes: float, again: float) -> None:
    """Add matrix products, attention or scan, and the traffic between them."""
    layout, tokens, generation = job.layout, job.tokens, job.hardware.generation
    peak, hbm = peak_flops(job), job.hardware.hbm_tb_per_s * 1e12
    forward = block.forward(job.attended)
    terms[f"gemm {generation} {job.precision}"] += forward.matrices * tokens / layout.tp * passes / peak
    if isinstance(block, ExpertsBlock):
        aligned = block.width % 128 == 0
        name = f"expert gemm {generation}" if aligned else "expert gemm unaligned"
        terms[name] += forward.experts * tokens / layout.tp * passes / peak
        held = block.experts / layout.ep / layout.etp
        terms["expert weights"] += 2 * held * passes / hbm
    if forward.mixing:
        whole = (
            again if again == 1.0 else float("core_attn" in job.recompute.modules or again * (block.kind == "mamba"))
        )
        runs = (3.5 if block.kind == "attention" else 3.0) + whole
        seconds = forward.mixing * tokens / layout.tp * runs / (job.hardware.bf16_tflops * 1e12)
        terms[_mixing_name(job, block)] += seconds
    kept = block.kept(False)
    moved = (kept.spread / (layout.tp if layout.sp else 1) + kept.cut / layout.tp) * tokens
    expert = isinstance(block, ExpertsBlock)
    terms["traffic experts" if expert else "traffic"] += moved * passes / 3 / hbm
    if job.precision not in ("fp32", "bf16"):
        once = 1 if job.lora else 1 / job.micro_batches
        terms["cast"] += (3 * block.experts / layout.ep / layout.etp) / hbm
        if not expert:
            terms["cast"] += (moved + 2 * block.matrices / layout.tp * once) / hbm


def _mixing_name(job: Job, block: Block) -> str:
    generation, software = job.hardware.generation, job.software
    if isinstance(block, MambaBlock):
        return f"scan {generation}"
    if isinstance(block, LatentAttentionBlock):
        return "attention latent"
    if isinstance(block, AttentionBlock) and block.sinks:
        return "attention sinks fused" if software.graph == "full" else "attention sinks"
    if generation in ("ampere", "cpu") or software.kernel == "cudnn":
        return f"attention {generation}"
    if software.kernel == "fa2":
        return f"attention fa2 {generation}"
    return f"attention {software.kernel}"


def _context_bytes(job: Job, block: Block, again: float) -> float:
    """Return what context parallelism moves: K and V around the ring, a scan's input to and fro."""
    layout, share = job.layout, job.tokens / job.layout.tp
    if isinstance(block, MambaBlock):
        return 4 * block.inner * share * (3 + again)
    if isinstance(block, LatentAttentionBlock):
        wide = block.heads * (block.nope + block.rope + block.value)
        return 2 * wide * share * (layout.cp - 1) * (3 + again)
    if isinstance(block, AttentionBlock):
        return 2 * block.kv * share * (layout.cp - 1) * (3 + again)
    return 0.0


def _dispatch_terms(job: Job, block: ExpertsBlock, again: float, terms: Terms) -> None:
    """Add what tokens cost on their way to their experts and back."""
    layout, software, domain = job.layout, job.software, job.hardware.nvlink_domain
    copy = 2 * (block.latent or block.hidden) * job.tokens / layout.tp * (4 + 2 * again)
    inside = copy * block.topk * (layout.ep - 1) / layout.ep / _bandwidth(job, wide=False)
    nodes = layout.ep * layout.etp / domain
    if nodes <= 1:
        terms["ep overlapped" if software.dispatcher == "overlapped" else "ep fast"] += inside
        return
    once = nodes * (1 - (1 - 1 / nodes) ** block.topk)
    copies = block.topk if software.dispatcher == "plain" else once
    name = "ep efa" if software.efa else f"ep {software.dispatcher}"
    terms["ep fast"] += inside
    terms[name] += copy * copies * (1 - 1 / nodes) / _bandwidth(job, wide=True)


def _launch_terms(job: Job, block: Block, passes: float, terms: Terms) -> None:
    """Count what the host has to launch, and small kernels' own latency."""
    software = job.software
    wide = software.graph in ("router", "full")
    if isinstance(block, ExpertsBlock):
        kind = "graphed" if wide else "capped" if software.capped else "early" if _early(software) else ""
        terms[f"host experts {kind}".strip()] += passes
        terms["block experts"] += passes
        terms["block efa"] += passes * software.efa
        return
    name = "block mamba" if isinstance(block, MambaBlock) else "block"
    terms[name] += passes
    terms["host block graphed" if software.graph else f"host {name}"] += passes


def _early(software: Software) -> bool:
    """Tell whether it is Megatron-Bridge before 26.04, whose experts launched much more."""
    return software.name == "Bridge to 26.02, experts"


def _output_terms(job: Job, terms: Terms) -> None:
    shape, layout, tokens = job.shape, job.layout, job.tokens
    heads, passes = 1 + shape.predicted, 2 if job.lora else 3
    rows = shape.vocabulary / layout.tp * tokens * heads
    terms["head"] += 2 * shape.hidden * rows * passes / (job.hardware.bf16_tflops * 1e12)
    terms["logits"] += rows / (job.hardware.hbm_tb_per_s * 1e12)
    if not shape.predicted:
        return
    peak, generation = peak_flops(job), job.hardware.generation
    parts = [block.forward(job.attended) for block in shape.further]
    matrices = sum(part.matrices for part in parts) + 4 * shape.hidden**2
    share = shape.predicted * tokens / layout.tp * 3 / peak
    terms[f"gemm {generation} {job.precision}"] += matrices * share
    terms[f"expert gemm {generation}"] += sum(part.experts for part in parts) * share


def _gather_terms(job: Job, chunks: list[Mapping[Block, int]], terms: Terms) -> None:
    """Add what FSDP gathers before a block is computed, and scatters of its gradients."""
    shape, layout = job.shape, job.layout
    dense = sum(block.matrices * count for chunk in chunks for block, count in chunk.items())
    expert = sum(block.experts * count for chunk in chunks for block, count in chunk.items())
    dense += shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    times = (1 if job.storage.gathers_once else 2) + (0 if job.lora else 2)
    size = 2 if job.precision in ("fp32", "bf16") else 1.5
    wide = layout.ranks > job.hardware.nvlink_domain
    moved = size * (dense / layout.tp + expert / layout.ep) * times
    terms["gathers" if wide else "gathers fast"] += moved / _bandwidth(job, wide)
