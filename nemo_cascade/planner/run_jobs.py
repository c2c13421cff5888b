"""A run's stages as jobs: what the configuration says, in the planner's own values."""

from dataclasses import dataclass

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import TrainedStage
from nemo_cascade.models.architecture import Architecture, Attention, Dense, Experts, Mamba
from nemo_cascade.planner.engine import Engine
from nemo_cascade.planner.job import Job, Precision, Recompute, Software, Storage
from nemo_cascade.planner.rollouts import RlStep
from nemo_cascade.planner.shape import AttentionBlock, Block, DenseBlock, ExpertsBlock, MambaBlock, Shape


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of documents and responses, as measured or assumed.

    Attributes:
        response: mean of a response, as a share of the longest allowed.
        prompt: mean tokens of a prompt.
        document: mean tokens of a packed document, as a share of a pack.
    """

    response: float = 0.5
    prompt: float = 512.0
    document: float = 0.25


def shape_of(arch: Architecture, name: str, divisible_by: int, tp: int) -> Shape:
    """Return an architecture as the planner's shape; the vocabulary with Megatron's padding."""
    hidden = arch.hidden_size
    layers = []
    for layer in arch.layers:
        blocks: list[Block] = []
        if isinstance(layer.mixer, Attention):
            mixer = layer.mixer
            blocks.append(AttentionBlock(hidden, mixer.heads, mixer.groups, mixer.head_dim))
        elif isinstance(layer.mixer, Mamba):
            state = layer.mixer
            blocks.append(MambaBlock(hidden, state.heads, state.head_dim, state.state, state.groups))
        if isinstance(layer.mlp, Dense):
            blocks.append(DenseBlock(hidden, layer.mlp.width, layer.mlp.activation == "swiglu"))
        elif isinstance(layer.mlp, Experts):
            mlp = layer.mlp
            gated = mlp.activation == "swiglu"
            blocks.append(ExpertsBlock(hidden, mlp.count, mlp.chosen, mlp.width, mlp.shared_width, gated=gated))
        layers.append(tuple(blocks))
    return Shape(name, hidden, tuple(layers), arch.padded_vocab_size(divisible_by, tp), arch.tied)


def train_job(config: RunConfig, stage: TrainedStage, arch: Architecture, hardware: HardwareConfig) -> Job:
    """Return a stage's training as a job: micro-batches of one pack."""
    return job_for(config, stage, arch, hardware, stage.layout(config))


def job_for(
    config: RunConfig, stage: TrainedStage, arch: Architecture, hardware: HardwareConfig, parallel: ParallelConfig
) -> Job:
    """Return a stage's training as a job in a layout that needn't be the stage's own."""
    layout, precision = parallel.layout, config.precision
    size = stage.size()
    tokens = size.tokens_per_step / max(1, size.updates_per_step)
    filled = tokens * (Lengths().response if stage.judged() else 1.0)
    number: Precision = "fp32" if precision.dtype == "fp32" else "bf16"
    if precision.fp8 != "off":
        number = "mxfp8" if precision.fp8_recipe == "mxfp8" and hardware.generation == "blackwell" else "fp8"
    main, half = parallel.use_distributed_optimizer, precision.dtype == "bf16"
    deduplicated = arch.experts is not None
    return Job(
        shape=shape_of(arch, config.model.name, config.model.make_vocab_size_divisible_by, layout.tp),
        hardware=hardware,
        layout=layout,
        sequence=stage.seq_length,
        micro_batches=max(1, round(filled / stage.seq_length / layout.dp)),
        context=max(1.0, Lengths().document * stage.seq_length),
        precision=number,
        task="rl" if stage.judged() else "sft",
        recompute=Recompute(
            whole=parallel.recompute == "full",
            modules=frozenset({"core_attn"} if parallel.recompute == "selective" else ()),
        ),
        storage=Storage(weight=2.0 if half else 4.0, moments=12.0 if half else 8.0, sharded=main),
        loss="blocks",
        software=Software(dispatcher="deduplicated" if deduplicated else "plain"),
        dealt=_dealt(layout.stage_layers(len(arch.layers)), layout.vpp),
    )


def engine_of(config: RunConfig, stage: TrainedStage, job: Job) -> Engine | None:
    """Return an engine of a stage's model; None where none is at work for it."""
    rollout = config.rollout
    weight, tp = 4.0 if rollout.dtype == "fp32" else 2.0, rollout.tensor_parallel_size
    return Engine(job.shape, job.hardware, tp, tp, weight, weight) if stage.draws_responses() else None


def rl_step_of(config: RunConfig, stage: TrainedStage, job: Job, update_s: float) -> RlStep | None:
    """Return a stage's step of rollouts and updates; None where it draws no responses."""
    engine = engine_of(config, stage, job)
    if not stage.judged() or engine is None:
        return None
    rollout, size = config.rollout, stage.size()
    together = rollout.placement == "colocated"
    longest = size.length
    samples = size.tokens_per_step / longest
    return RlStep(
        job=job,
        updates=float(size.updates_per_step),
        train_s=update_s,
        engine=engine,
        engines=float(rollout.num_engines),
        samples=float(samples),
        prompt=Lengths().prompt,
        mean=Lengths().response * longest,
        longest=float(longest),
        together=together,
    )


def _dealt(stage_layers: list[int], vpp: int) -> tuple[int, ...]:
    return tuple(size // vpp for _ in range(vpp) for size in stage_layers)
