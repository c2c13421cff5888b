"""Checks across fields, all reported at once, before any process starts.

What depends on the model's architecture or on the plan of stages is checked where those are known, see cli/preflight;
what this machine lacks, in machine.
"""

import datetime
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict

from nemo_cascade.config.checks import host
from nemo_cascade.config.checks.judges import judge_violations
from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.rollout import room_problems
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START, TrainedStage
from nemo_cascade.config.stages.measure import measure_problems
from nemo_cascade.errors import CascadeError

Problems = Iterator[CascadeError]

# File systems hold names of 255 bytes; what is made beside a run's folder is named after it.
_LONGEST_NAME = 200


def violations(config: RunConfig) -> list[CascadeError]:
    """Return everything that makes a well-typed configuration impossible to run anywhere; empty if nothing does."""
    checks: list[Callable[[RunConfig], Problems]] = [_run, _device, _model, _precision, _machines, _suites]
    found = [problem for check in checks for problem in check(config)]
    for index, (name, stage) in enumerate(config.stages.items()):
        if (trained := stage.trained()) is not None:
            found += _optimizer(f"stages.{name}.optimizer", trained)
            found += _carry(config, index, name, trained)
            found += measure_problems(config, name, trained)
            found += trained.router.problems(f"stages.{name}.router")
        found += stage.problems(config, name)
    return found + list(judge_violations(config))


def _run(config: RunConfig) -> Problems:
    if not config.name.strip(".") or set(config.name) & set("/\\\0"):
        mend = f"name={re.sub(r'[^A-Za-z0-9_.-]+', '_', config.name).strip('._') or 'run'}"
        yield CascadeError("name can't be a folder", value=repr(config.name), limit="no / and \\", mend=mend)
    elif len(config.name.encode()) > _LONGEST_NAME:
        limit = f"{_LONGEST_NAME} bytes"
        mend = f"name={config.name.encode()[: _LONGEST_NAME // 4].decode(errors='ignore')}"
        value = f"{len(config.name.encode())} bytes"
        yield CascadeError("name is too long for a folder", value=value, limit=limit, mend=mend)
    for key, folder in (("runs_dir", config.runs_dir), ("data_dir", config.data_dir)):
        if not folder.strip():
            mend = f"{key}=. for this folder, or another"
            yield CascadeError(f"{key} names no folder", value=repr(folder), limit="a path", mend=mend)
    for key, value in flatten(asdict(config)).items():  # type: ignore[call-overload]
        # An upper bound may be absent; every other number has to be one.
        if isinstance(value, float) and not math.isfinite(value) and not key.endswith("loss.correction_max"):
            mend = f"leave {key} out, or give it a number: `nemo-cascade explain {key}`"
            yield CascadeError("the number is not finite", value=f"{key}={value}", limit="a finite number", mend=mend)


def _device(config: RunConfig) -> Problems:
    if config.rollout.tensor_parallel_size > 1 and host.resolved_device(config.cluster) == "cpu":
        yield CascadeError(
            "an engine on CPU is one process",
            value=f"rollout.tensor_parallel_size={config.rollout.tensor_parallel_size}",
            limit=1,
            mend="rollout.tensor_parallel_size=1, with more of rollout.num_engines",
        )


def _model(config: RunConfig) -> Problems:
    model = config.model
    if (date := model.chat_template_date) is not None and not _is_date(date):
        value = f"model.chat_template_date={date}"
        mend = "'model.chat_template_date=\"2026-11-29\"'"
        yield CascadeError("no date", value=value, limit="a day of the calendar", mend=mend)
    if model.source == "hf" and model.path is None:
        yield CascadeError("model.source=hf needs a folder", value="model.path=null", mend="model.path=FOLDER")
    elif model.source == "random" and not model.architecture:
        mend = "+model.architecture.model_type=qwen3 and so on, or model=nano"
        yield CascadeError("model.source=random needs model.architecture", value="empty", mend=mend)
    anew = {"max_position_embeddings": model.max_position_embeddings, "rope_theta": model.rope_theta}
    for name, number in anew.items():
        if model.source != "hf" and number is not None:
            mend = f"model.architecture.{name}=... for source=random"
            what = "only what an HF folder says is set anew"
            yield CascadeError(what, value=f"model.{name}={number}", limit="null", mend=mend)


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _precision(config: RunConfig) -> Problems:
    if config.precision.fp8 == "off":
        return
    value = f"precision.fp8={config.precision.fp8}"
    if host.resolved_device(config.cluster) == "cpu":
        yield CascadeError("FP8 needs a GPU", value=value, limit="off on CPU", mend="precision=bf16")
    if config.precision.dtype != "bf16":
        yield CascadeError(
            "FP8 goes with bf16", value=f"precision.dtype={config.precision.dtype}", mend="precision=fp8"
        )


def _machines(config: RunConfig) -> Problems:
    cluster, rollout = config.cluster, config.rollout
    if host.resolved_device(cluster) == "cpu":
        return
    if cluster.deterministic and rollout.kv_cache_blocks is None:
        yield CascadeError(
            "the same bits every time need the same number of KV cache blocks",
            value="rollout.kv_cache_blocks=null with cluster.deterministic=true",
            limit="a number",
            mend=f"rollout.kv_cache_blocks={rollout.max_num_seqs * -(-rollout.max_model_len // 16)}",
        )
    if 0 < cluster.gpus_per_node < rollout.tensor_parallel_size:
        yield CascadeError(
            "an engine can't span machines",
            value=f"rollout.tensor_parallel_size={rollout.tensor_parallel_size}",
            limit=f"{cluster.gpus_per_node} = cluster.gpus_per_node",
            mend=f"rollout.tensor_parallel_size={cluster.gpus_per_node}",
        )
    have = cluster.num_nodes * cluster.gpus_per_node
    trainer, engines = config.parallel.layout.ranks, rollout.num_engines * rollout.tensor_parallel_size
    for name, stage in config.stages.items():
        layout = stage.layout(config)
        if layout is not config.parallel and layout.layout.ranks > have:
            value, limit = f"stages.{name}.parallel: {layout.layout.ranks} ranks", f"{have} GPUs"
            mend = f"cluster.num_nodes={_nodes(config, layout.layout.ranks)}, or a smaller stages.{name}.parallel"
            yield CascadeError("the stage's layout needs more GPUs than there are", value=value, limit=limit, mend=mend)
        teachers = stage.teacher_layout(config)
        if teachers is not None and teachers is not layout and teachers.layout.ranks > have:
            value, limit = f"stages.{name}.teacher_parallel: {teachers.layout.ranks} ranks", f"{have} GPUs"
            mend = f"cluster.num_nodes={_nodes(config, teachers.layout.ranks)}, or fewer under teacher_parallel"
            yield CascadeError(
                "the teachers' layout needs more GPUs than there are", value=value, limit=limit, mend=mend
            )
    need = max(trainer, engines) if rollout.placement == "colocated" else trainer + engines
    if need > have:
        yield CascadeError(
            f"policy ({trainer} ranks) and engines ({rollout.num_engines} x {rollout.tensor_parallel_size} GPUs, "
            f"{rollout.placement}) need more GPUs than there are",
            value=need,
            limit=f"{have} = cluster.num_nodes x cluster.gpus_per_node",
            mend=f"parallel=single rollout.num_engines=1, or cluster.num_nodes={_nodes(config, need)}",
        )


def _nodes(config: RunConfig, ranks: int) -> int:
    """Return how many machines have a GPU for each of so many ranks."""
    return -(-ranks // max(1, config.cluster.gpus_per_node))


def _suites(config: RunConfig) -> Problems:
    for name, suite in config.evaluation.suites.items():
        prefix = f"evaluation.suites.{name}"
        yield from room_problems(config.rollout, prefix, suite.sampling)
        if suite.pick is not None:
            yield from suite.pick.problems(config, prefix, suite)
        if suite.sampling.temperature == 0 and suite.samples_per_prompt > 1:
            value = f"{prefix}.samples_per_prompt={suite.samples_per_prompt}"
            yield CascadeError(
                "greedy answers are all the same", value=value, limit=1, mend=f"{prefix}.samples_per_prompt=1"
            )


def _optimizer(prefix: str, stage: TrainedStage) -> Problems:
    optimizer = stage.optimizer
    if optimizer.min_lr > optimizer.lr:
        value = f"{prefix}.min_lr={optimizer.min_lr}"
        yield CascadeError(
            "the schedule ends above its peak",
            value=value,
            limit=f"at most lr={optimizer.lr:g}",
            mend=f"{prefix}.min_lr={optimizer.lr:g}",
        )
    if optimizer.lr_warmup_init > optimizer.lr:
        value, limit = f"{prefix}.lr_warmup_init={optimizer.lr_warmup_init}", f"at most lr={optimizer.lr:g}"
        mend = f"{prefix}.lr_warmup_init={optimizer.lr:g}"
        yield CascadeError("the warm-up begins above the peak", value=value, limit=limit, mend=mend)
    horizon = optimizer.lr_decay_steps or stage.size().updates
    if horizon is not None and optimizer.lr_warmup_steps >= horizon and optimizer.lr_warmup_steps > 0:
        value = f"{prefix}.lr_warmup_steps={optimizer.lr_warmup_steps}"
        yield CascadeError(
            "warm-up takes the whole schedule",
            value=value,
            limit=f"less than {horizon} steps",
            mend=f"{prefix}.lr_warmup_steps={max(horizon // 10, min(1, horizon - 1))}",
        )
    if optimizer.lr_warmup_fraction is not None and optimizer.lr_warmup_steps:
        value = (
            f"{prefix}: lr_warmup_steps={optimizer.lr_warmup_steps}, lr_warmup_fraction={optimizer.lr_warmup_fraction}"
        )
        mend = f"{prefix}.lr_warmup_steps=0 takes the share, {prefix}.lr_warmup_fraction=null the steps"
        yield CascadeError("warm-up is given twice", value=value, limit="one of both", mend=mend)
    if optimizer.lr_decay_style != "wsd" and optimizer.lr_wsd_decay_steps is not None:
        value = f"{prefix}.lr_wsd_decay_steps={optimizer.lr_wsd_decay_steps} with {optimizer.lr_decay_style}"
        mend = f"{prefix}.lr_decay_style=wsd"
        yield CascadeError("only wsd has steps of decay at its end", value=value, limit="null", mend=mend)
    for beta in ("adam_beta1", "adam_beta2"):
        if getattr(optimizer, beta) >= 1:
            value, mend = f"{prefix}.{beta}={getattr(optimizer, beta)}", f"{prefix}.{beta}=0.95"
            yield CascadeError("Adam forgets nothing", value=value, limit="below 1", mend=mend)


def _carry(config: RunConfig, index: int, name: str, stage: TrainedStage) -> Problems:
    if not stage.carry.optimizer:
        return
    key = f"stages.{name}.carry.optimizer"
    earlier = list(config.stages.items())[:index]
    parents = [START, *(name for name, before in earlier if before.moves_policy)]
    parent = stage.parent or parents[-1]
    if parent == START:
        yield CascadeError(
            "the first stage has no parent's optimizer to carry", value=f"{key}=true", mend=f"{key}=false"
        )
    elif parent in parents and config.stages[parent].kind != stage.kind:
        limit = f"a parent of the same kind; {parent} is {config.stages[parent].kind}, {name} is {stage.kind}"
        yield CascadeError("the optimizer can't be carried over", value=f"{key}=true", limit=limit, mend=f"{key}=false")
