"""`nemo-cascade plan --optimize gpus=64`: the fastest layouts of a run's stages, with their overrides."""

import re
from collections.abc import Callable
from dataclasses import replace

from rich.markup import escape

from nemo_cascade.cli.machine_use import trained, trained_architectures
from nemo_cascade.cli.preflight import Preflight
from nemo_cascade.cli.screen.terminal import out, table
from nemo_cascade.config.layout import Layout
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.fit import layout_problems
from nemo_cascade.planner.engine import Engine
from nemo_cascade.planner.optimize import Candidate, search
from nemo_cascade.planner.ranks.memory import GB, engine_cache, engine_share, outside_bytes
from nemo_cascade.planner.run_jobs import train_job


def gpus_of(text: str) -> int:
    """Read `gpus=64`.

    Raises:
        ConfigError: it is something else.
    """
    if not (match := re.fullmatch(r"gpus=(\d+)", text)) or int(match[1]) < 1:
        raise ConfigError(
            [
                CascadeError(
                    "--optimize takes a number of GPUs", value=text, limit="gpus=N, N >= 1", mend="--optimize gpus=8"
                )
            ]
        )
    return int(match[1])


def show_best(ready: Preflight, gpus: int) -> int:
    """Print the fastest layouts of every stage that trains a known model."""
    config, hardware = ready.config, ready.config.hardware
    for name, arch in trained_architectures(ready).items():
        stage = trained(config, name)
        job = train_job(config, stage, arch, hardware)
        together = stage.draws_responses() and config.rollout.placement == "colocated"
        extra = outside_bytes(hardware) + (engine_share(config, hardware) if together else 0.0)
        found = search(job, gpus, micro_batches=(1,), allowed=_possible(arch, stage.layout(config)), extra=extra)
        shown = table(
            f"{name} on {gpus} x {hardware.name}", "seconds of an update#", "80 % lie in#", "GB#", "why", "overrides"
        )
        for one in found:
            bounds = f"{one.step.low:.3g}-{one.step.high:.3g}"
            peak = f"{(one.peak + extra) / GB:.0f}"
            shown.add_row(f"{one.step.value:.3g}", bounds, peak, one.reason, escape(_overrides(one)))
        out.print(shown)
        if not found:
            out.print("no layout fits: more GPUs, a shorter seq_length, or a machine with more memory")
        if stage.judged():
            _show_engines(arch, ready, gpus)
        out.print()
    return 0


def parallel_of(layout: Layout, base: ParallelConfig, recompute: bool) -> ParallelConfig:
    """Return a layout as configuration."""
    return replace(
        base,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp,
        context_parallel_size=layout.cp,
        data_parallel_size=layout.dp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp if layout.ep > 1 else None,
        sequence_parallel=layout.sp,
        recompute="full" if recompute else "none",
    )


def _possible(arch: Architecture, base: ParallelConfig) -> Callable[[Layout], bool]:
    return lambda layout: not layout_problems(arch, parallel_of(layout, base, recompute=False))


def _overrides(one: Candidate) -> str:
    layout = one.job.layout
    sizes = {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vpp,
        "context_parallel_size": layout.cp,
        "expert_model_parallel_size": layout.ep,
    }
    words = [f"parallel.{key}={size}" for key, size in sizes.items() if size > 1]
    words.append(f"parallel.data_parallel_size={layout.dp}")
    words += ["parallel.sequence_parallel=true"] * layout.sp
    words.append(f"parallel.recompute={'full' if one.job.recompute.whole else 'none'}")
    return " ".join(words)


def _show_engines(arch: Architecture, ready: Preflight, gpus: int) -> None:
    """Print the smallest engine that leaves the most cache: engines are copies, so smaller ones give more tokens."""
    config, hardware = ready.config, ready.config.hardware
    stage = next(trained(config, name) for name, stage in config.stages.items() if stage.judged())
    shape = train_job(config, stage, arch, hardware).shape
    weight = 4.0 if config.rollout.dtype == "fp32" else 2.0
    for tp in (1, 2, 4, 8):
        engine = Engine(shape, hardware, tp, tp, weight, weight)
        cache = engine_cache(config, engine)
        if gpus % tp == 0 and cache >= 4 * engine.cache_bytes(config.rollout.max_model_len):
            longest = cache / engine.cache_bytes(config.rollout.max_model_len)
            out.print(
                f"engines: {gpus // tp} of TP {tp}, room for {longest:.0f} "
                f"longest sequences each: rollout.num_engines={gpus // tp} rollout.tensor_parallel_size={tp}",
                soft_wrap=True,
                markup=False,
            )
            return
    out.print("engines: no size leaves room for four of the longest sequences; raise rollout.gpu_memory_utilization")
