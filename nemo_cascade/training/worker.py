"""One Megatron rank of the policy: what the actors call, and tests without them."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.errors import ConfigError, ModelError, TrainingError
from nemo_cascade.models.architecture import Architecture, ScoreHead
from nemo_cascade.models.choices import check_replay
from nemo_cascade.models.families import family_named
from nemo_cascade.models.fit import sharing_problems
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.megatron import backend
from nemo_cascade.models.megatron.build import build_model
from nemo_cascade.models.megatron.specs import resolve_layer_spec
from nemo_cascade.models.rules import fp32_names
from nemo_cascade.models.weights import export_weights, load_weights, save_hf
from nemo_cascade.training import runtime
from nemo_cascade.training.checkpoints import sharded
from nemo_cascade.training.experts import ExpertLoad
from nemo_cascade.training.optimizer import PolicyOptimizer
from nemo_cascade.training.precision import Padding, check_precision
from nemo_cascade.training.rank import RankWorker
from nemo_cascade.training.rounding import rounded_anew
from nemo_cascade.training.scoring.scored import Scoring
from nemo_cascade.training.setup import StepResult, TrainerSetup, Training, WhichModel
from nemo_cascade.training.step import Teacher, TrainStep, forward_logprobs, forward_outputs, loss_of
from nemo_cascade.types import BatchSource, Float32, PackedBatch

# backend first: Megatron-Core assumes CUDA while it is imported.
from megatron.core.distributed import DistributedDataParallel  # isort: skip
from megatron.core.distributed import DistributedDataParallelConfig, finalize_model_grads  # isort: skip

__all__ = ["StepResult", "TrainerSetup", "TrainerWorker"]


@dataclass(slots=True)
class _Ready:
    """Everything that exists between set-up and the next one."""

    setup: TrainerSetup
    arch: Architecture
    chunks: list[Any]
    scoring: Scoring
    step: TrainStep | None
    reference: list[Any] | None


class TrainerWorker(RankWorker):
    """One rank. All methods but `close` are collective: every rank calls them in the same order.

    Its arguments are those of `RankWorker`.
    """

    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self._ready: _Ready | None = None

    def setup(self, setup: TrainerSetup) -> dict[str, Any]:
        """Build model, optimizer and loss from fresh weights; may be called again for the next stage.

        Returns:
            Facts for the report: parameters, padded vocabulary, padding groups, data-parallel size, peak memory so far.

        Raises:
            CascadeError: a set-up, layout, model or precision that can't be had; every reason listed.
        """
        capability = torch.cuda.get_device_capability() if backend.HAS_GPU else None
        check_precision(setup.precision, gpu=backend.HAS_GPU, capability=capability)
        self._drop()
        axes, layout = self._join(setup.parallel, setup.seed).axes, setup.parallel.layout
        arch = _architecture(setup)
        padding = Padding.of(setup.precision, layout)
        scoring = Scoring(vocab_size=arch.vocab_size, temperature=setup.temperature, padding=padding, axes=axes)
        bare = self._build(setup, arch, setup.hf_path)
        step = None
        if setup.training is not None:
            step = _train_step(setup, setup.training, arch, bare, scoring, self._teacher(setup, arch, scoring))
        chunks = _frozen(bare) if step is None else list(step.chunks)
        reference = self._frozen_model(setup, setup.reference_hf_path)
        self._ready = _Ready(setup, arch, chunks, scoring, step, None if reference is None else reference[1])
        return {
            "architecture": arch.family,
            "rank_parameters": sum(parameter.numel() for chunk in bare for parameter in chunk.parameters()),
            "padded_vocab_size": bare[0].vocab_size,
            "padding_query_groups": arch.padding_groups(layout.tp),
            "data_parallel_size": layout.dp,
            "peak_memory_bytes": backend.peak_memory_bytes(),
        }

    def score_at(self, temperature: float) -> None:
        """Divide the logits by another temperature from now on, in the loss and wherever log-probs are computed.

        Raises:
            ConfigError: a temperature at which nothing can be scored.
        """
        if temperature <= 0:
            raise ConfigError([f"temperature {temperature} can't score log-probabilities; it must be above 0"])
        ready = self._set_up
        ready.scoring = replace(ready.scoring, temperature=temperature)
        training = ready.setup.training
        if ready.step is not None and training is not None:
            weights_K = _score_weights(ready.arch)
            ready.step.loss = loss_of(training.objective, ready.scoring, weights_K, ready.step.teacher)

    def train_step(self, source: BatchSource, step: int) -> StepResult:
        """Train on one global batch.

        Args:
            source: hands out the micro-batches of every data-parallel rank.
            step: optimizer step of the stage, from 0; decides data and learning rate.

        Raises:
            TrainingError: an empty batch, or a non-finite step beyond `optimizer.max_skipped_steps`.
        """
        return self._trained.run(self._micro_batches(source, step), step)

    def logprobs(self, source: BatchSource, step: int, which: WhichModel = "policy") -> list[Float32] | None:
        """Score the labels of a global batch.

        Args:
            source: hands out the micro-batches.
            step: which global batch.
            which: the policy as it is now, the same with every layer's output rounded once more, or the frozen
                reference.

        Returns:
            Per own micro-batch the log-probability of each label [T], temperature applied; None on ranks that are
            not the last pipeline stage's first tensor-parallel rank.

        Raises:
            TrainingError: there is no reference.
        """
        ready = self._set_up
        chunks = ready.reference if which == "reference" else ready.chunks
        if chunks is None:
            raise TrainingError("no reference model was set up", mend="give PolicyLoss.reference_hf_path")
        with rounded_anew(chunks) if which == "rounded_anew" else nullcontext():
            scores = forward_logprobs(chunks, self._micro_batches(source, step), ready.scoring)
        if not self._joined.reports:
            return None
        return [score.cpu().numpy() for score in scores]

    def outputs(self, source: BatchSource, step: int) -> list[Float32] | None:
        """Have the reward model judge the documents of a global batch; collective.

        Returns:
            Per own micro-batch its head's outputs for each document [D, K]; None on ranks that are not the last
            pipeline stage's first tensor-parallel rank.

        Raises:
            TrainingError: the model is no reward model.
        """
        ready = self._set_up
        if not ready.arch.scores:
            raise TrainingError("a language model has no scores", mend="set it up with a reward model's loss")
        outputs = forward_outputs(
            ready.chunks, self._micro_batches(source, step), ready.scoring.padding, ready.scoring.axes
        )
        return [output.cpu().numpy() for output in outputs] if self._joined.reports else None

    def save_checkpoint(self, folder: str, state: dict[str, Any]) -> None:
        """Write model, optimizer, random state and the caller's JSON-like state into an empty folder.

        Raises:
            CheckpointError: it could not be written.
        """
        ready, step = self._set_up, self._trained
        saved = sharded.Saved(
            kind=_kind(ready), layout=asdict(ready.setup.parallel), skipped_steps=step.skipped, user=state
        )
        sharded.save(Path(folder), _bare(step.chunks), step.optimizer.megatron, saved)

    def load_checkpoint(self, folder: str) -> dict[str, Any]:
        """Take over everything that `save_checkpoint` wrote, in this or another layout.

        Returns:
            The caller's state.

        Raises:
            CheckpointError: unreadable, or of another model, dtype or optimizer.
        """
        ready, step = self._set_up, self._trained
        saved = sharded.load(
            Path(folder),
            _bare(step.chunks),
            step.optimizer.megatron,
            ready.arch,
            kind=_kind(ready),
            layout=asdict(ready.setup.parallel),
        )
        step.skipped = saved.skipped_steps
        return dict(saved.user)

    def export_hf(self, folder: str) -> None:
        """Write the policy as an HF folder: safetensors, config, tokenizer files."""
        ready = self._set_up
        save_hf(ready.chunks, ready.arch, self._joined.axes, Path(ready.setup.hf_path), Path(folder))

    def weight_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (HF name, whole tensor) on rank 0, one at a time; the other ranks must exhaust it too.

        The tensors may share memory with the model: copy before training goes on.
        """
        ready = self._set_up
        yield from export_weights(ready.chunks, ready.arch, self._joined.axes)

    @property
    def fp32_weights(self) -> frozenset[str]:
        """Names of the HF tensors that are fp32 whatever the model's dtype."""
        return fp32_names(self._set_up.arch)

    def close(self) -> None:
        """Free the model and leave the job. Idempotent."""
        self._drop()
        self._leave()

    @property
    def _set_up(self) -> _Ready:
        if self._ready is None:
            raise TrainingError("the policy worker is not set up", mend="call setup() first")
        return self._ready

    @property
    def _trained(self) -> TrainStep:
        step = self._set_up.step
        if step is None:
            raise TrainingError("this model only serves its weights", mend="set it up with TrainerSetup.training")
        return step

    @property
    def _joined(self) -> runtime.Runtime:
        assert self._runtime is not None, "setup() joins the job"
        return self._runtime

    def give_memory_back(self) -> None:
        """Give the driver the memory that is kept for tensors to come."""
        gc.collect()
        backend.empty_cache()

    def _drop(self) -> None:
        """Let go of models and optimizer before new ones are built: two sets would not fit."""
        self._ready = None
        self.give_memory_back()

    def _build(self, setup: TrainerSetup, arch: Architecture, hf_path: str) -> list[Any]:
        axes = self._joined.axes
        chunks = build_model(
            arch,
            model=setup.model,
            parallel=setup.parallel,
            precision=setup.precision,
            seq_length=setup.seq_length,
            axes=axes,
        )
        load_weights(chunks, arch, Path(hf_path), axes, head_seed=setup.seed if arch.scores else None)
        return chunks

    def _frozen_model(self, setup: TrainerSetup, hf_path: str | None) -> tuple[Architecture, list[Any]] | None:
        if hf_path is None:
            return None
        arch = _language_model(hf_path, setup.model.family)
        return arch, _frozen(self._build(setup, arch, hf_path))

    def _teacher(self, setup: TrainerSetup, arch: Architecture, scoring: Scoring) -> Teacher | None:
        model = self._frozen_model(setup, setup.teacher_hf_path)
        if model is None:
            return None
        assert model[0].vocab_size == arch.vocab_size, "stages.teachers.logit_teacher refuses others"
        return Teacher(model[1], scoring.padding, scoring.axes["cp"])

    def _micro_batches(self, source: BatchSource, step: int) -> list[PackedBatch]:
        replicas = self._joined.axes["dp"]
        batches = list(source.micro_batches(step, replicas.rank, replicas.size))
        vocab_size = self._set_up.arch.vocab_size
        for batch in batches:
            check_replay(batch, self._set_up.arch)
            self._check_borrowed(batch)
            # In the model a row beyond the embedding is an index error, and one in its padding a token that nobody has.
            wrong = batch.input_ids[(batch.input_ids < 0) | (batch.input_ids >= vocab_size)]
            if wrong.size:
                raise TrainingError(
                    f"step {step}: the data hold tokens that the model doesn't have",
                    value=", ".join(str(token) for token in sorted(set(wrong.tolist()))[:5]),
                    limit=f"0..{vocab_size - 1} = vocab_size of config.json",
                    mend="the data were tokenised with another tokenizer than the model's",
                )
        return batches

    def _check_borrowed(self, batch: PackedBatch) -> None:
        if batch.borrowed is None:
            return
        setup = self._set_up.setup
        fused = resolve_layer_spec(setup.model.layer_spec, setup.precision.dtype) == "transformer_engine"
        if problems := sharing_problems(self._set_up.arch, setup.parallel, fused=fused):
            mend = "lay every document out with its prompt"
            raise TrainingError("documents can't share a prompt", value="; ".join(problems), mend=mend)


def _architecture(setup: TrainerSetup) -> Architecture:
    objective = None if setup.training is None else setup.training.objective
    if objective is None or objective.head() == "lm":
        return _language_model(setup.hf_path, setup.model.family)
    arch = read_architecture(Path(setup.hf_path), setup.model.family)
    if not (outputs := objective.score_outputs()):
        return arch if arch.scores else arch.with_score_head()
    head = ScoreHead(tuple(outputs), tuple(outputs.values()))
    if isinstance(arch.head, ScoreHead) and arch.head.names != head.names:
        raise ModelError(
            "the reward model has other outputs than the stage trains",
            value=f"{setup.hf_path}: {', '.join(arch.head.names)}",
            limit=", ".join(head.names),
            mend="start from a language model, or name the same attributes in the same order",
        )
    return arch.with_score_head(head)


def _language_model(hf_path: str, family: str | None) -> Architecture:
    arch = read_architecture(Path(hf_path), family)
    if arch.scores:
        raise ModelError("a reward model can't be a policy", value=hf_path, mend="give a language model's folder")
    return arch


def distributed(chunk: Any, parallel: ParallelConfig) -> Any:
    """Return a chunk in Megatron's data-parallel wrapper, its gradients reduced as sums."""
    chunk.config.finalize_model_grads_func = _finalize_sums
    wrapped: Any = DistributedDataParallel(
        chunk.config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=parallel.use_distributed_optimizer,
            overlap_grad_reduce=parallel.layout.dp * parallel.layout.cp > 1,
        ),
        chunk,
    )
    return wrapped


def _score_weights(arch: Architecture) -> torch.Tensor | None:
    """Return the weight of each output in a reward model's score, [K]; None of a language model."""
    return torch.tensor(arch.head.weights, device=backend.device()) if isinstance(arch.head, ScoreHead) else None


def _train_step(
    setup: TrainerSetup,
    training: Training,
    arch: Architecture,
    bare: list[Any],
    scoring: Scoring,
    teacher: Teacher | None,
) -> TrainStep:
    """Wrap the chunks for training, with their optimizer and loss."""
    experts = ExpertLoad(bare, arch, training.router, scoring.axes)
    chunks = [distributed(chunk, setup.parallel) for chunk in bare]
    no_syncs = [chunk.no_sync for chunk in chunks]
    bare[0].config.no_sync_func = no_syncs if len(no_syncs) > 1 else no_syncs[0]  # one config for all chunks
    return TrainStep(
        chunks=chunks,
        optimizer=PolicyOptimizer(
            chunks, training.optimizer, setup.parallel, setup.precision, total_steps=training.total_steps
        ),
        loss=loss_of(training.objective, scoring, _score_weights(arch), teacher),
        spec=training.objective.spec(),
        padding=scoring.padding,
        max_skipped=training.optimizer.max_skipped_steps,
        axes=scoring.axes,
        experts=experts,
        teacher=teacher,
    )


def _frozen(chunks: list[Any]) -> list[Any]:
    """Return the chunks as what is never trained."""
    return [chunk.requires_grad_(False).eval() for chunk in chunks]


def _bare(chunks: Sequence[Any]) -> list[torch.nn.Module]:
    """Return the chunks without their wrapper."""
    return [chunk.module for chunk in chunks]


def _finalize_sums(model: Any, num_tokens: torch.Tensor | None = None, **groups: Any) -> None:
    """Reduce gradients as sums; the step divides them by the global count, which every rank already knows."""
    finalize_model_grads(model, None, **groups)


def _kind(ready: _Ready) -> dict[str, Any]:
    """Return what must be equal for a checkpoint to be loaded."""
    kind = {
        "dtype": ready.setup.precision.dtype,
        "distributed_optimizer": ready.setup.parallel.use_distributed_optimizer,
        "architecture": family_named(ready.arch.family).write(ready.arch),
    }
    if ready.arch.experts is not None and ready.setup.training is not None:
        kind["trained_router"] = ready.setup.training.router.trainable  # a frozen one has no optimizer state
    return kind
