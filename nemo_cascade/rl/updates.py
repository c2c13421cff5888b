"""From judged rollouts to optimizer steps: packs with per-token advantages, and the log-probs some losses need."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.actors.agreement import Distance
from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.data.batches import RolloutSource, balanced_micro_batches
from nemo_cascade.data.layout import sampled_document
from nemo_cascade.losses.units import CONTINUED
from nemo_cascade.rl.batch import RolloutBatch
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.training.setup import StepResult
from nemo_cascade.types import Float32, PackedBatch, Trajectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Updates:
    """What a rollout batch was good for.

    Attributes:
        results: of the optimizer steps that were made.
        empty: updates that were left out, because none of their rollouts is trained.
        filtered: rollouts that `loss.sequence_error_max` took out of training.
        trainer: the trainer's log-probs of each rollout's tokens, in the batch's order; empty where none were needed.
        unreplayed: how far trainer and engine would be apart without replay, where it was measured.
    """

    results: list[StepResult]
    empty: int
    filtered: int
    trainer: list[Float32]
    unreplayed: dict[str, float]


def policy_updates(
    policy: TrainerGroup, batch: RolloutBatch, stage: GrpoStage, config: RunConfig, step: int, timer: PhaseTimer
) -> Updates:
    """Make the optimizer steps of one rollout batch: one for Cascade, several where a recipe reuses its rollouts.

    An update none of whose rollouts is trained is left out and counted: all of them were truncated under overlong=mask,
    had no verdict, or were filtered. Its place in the schedule stays empty.
    """
    parts = _split(rollout_documents(batch, stage), stage.updates_per_batch)
    sources = [_micro_batches(list(chain(*part)), stage, config.parallel) for part in parts]
    first, filtered = step * stage.updates_per_batch, 0
    trainer: list[Float32] = []
    unreplayed: dict[str, float] = {}
    with timer.phase("logprob"):
        if stage.router_replay.measure_every and step % stage.router_replay.measure_every == 0 and trains(sources[0]):
            unreplayed = measure_unreplayed(policy, sources[0], first)
        for i, source in enumerate(sources):
            if trains(source):
                sizes = [len(documents) for documents in parts[i]]
                sources[i], found, previous = with_logprobs(
                    policy, source, sizes, stage.trained_loss, first + i, previous=stage.updates_per_batch > 1
                )
                filtered += found
                trainer += previous
    with timer.phase("train"):
        results = [policy.train_step(source, first + i) for i, source in enumerate(sources) if trains(source)]
    empty = len(sources) - len(results)
    if empty:
        why = f"{batch.truncation_rate:.0%} of the rollouts were truncated, "
        why += f"{int((~batch.marks.valid).sum())} had no verdict, {filtered} were filtered"
        log.warning("step %d: %d of %d updates have nothing to train: %s", step + 1, empty, len(sources), why)
    # A rollout of several documents has no one list of log-probs.
    whole = len(trainer) == sum(map(len, parts)) and all(len(documents) == 1 for part in parts for documents in part)
    return Updates(results, empty, filtered, trainer if whole else [], unreplayed)


def measure_unreplayed(policy: TrainerGroup, source: RolloutSource, step: int) -> dict[str, float]:
    """Return how far trainer and engine are apart on trained tokens where the trainer's routers choose for themselves.

    The metrics beside it, with replay, are the loss's: `logprob_difference_mean` and `_max`.
    """
    scored = source.per_sample(policy.logprobs(source.without_routed_experts(), step))
    trained = [document.loss_mask > 0 for document in source.documents]
    engine = [d.extras["behaviour_logprobs"][where] for d, where in zip(source.documents, trained, strict=True)]
    distance = Distance.between([s[where] for s, where in zip(scored, trained, strict=True)], engine)
    return {
        "logprob_difference_mean_unreplayed": distance.mean,
        "logprob_difference_max_unreplayed": distance.max,
    }


def rollout_documents(batch: RolloutBatch, stage: GrpoStage) -> list[list[PackedBatch]]:
    """Return each rollout's documents, in batch order; its advantage is the same on all its sampled tokens.

    A rollout is one document, or several where a chat template wrote its conversation anew.
    """
    return [
        response_documents(
            answer,
            stage.trained_loss,
            trained=bool(is_trained),
            replay=stage.router_replay.enabled,
            advantages=float(advantage),
        )
        for group, advantages, trained in zip(batch.groups, batch.advantages, batch.marks.trained, strict=True)
        for answer, advantage, is_trained in zip(group.answers, advantages, trained, strict=True)
    ]


def response_documents(
    answer: Trajectory, loss: PolicyLossConfig, *, trained: bool, replay: bool = False, **values: float
) -> list[PackedBatch]:
    """Return the documents of one response, with what the loss reads of the response alone.

    Args:
        answer: the response.
        loss: that is computed of them.
        trained: False keeps them in the batch without gradient.
        replay: routers replay the engine's choices of experts.
        values: extra -> its value on all sampled tokens.

    Returns:
        One; several where a chat template wrote the conversation anew. A loss that is a mean over responses weighs the
        sampled tokens of all of them alike, and counts the response once.
    """
    documents = []
    if loss.aggregation == "sequence":
        values = values | {"sequence_weights": 1.0 / max(1, answer.num_sampled)}
    for number, part in enumerate(answer.parts):
        if loss.aggregation == "sequence":
            values = values | {CONTINUED: float(number > 0)}
        extras = {name: _where(part.trained > 0, value) for name, value in values.items()}
        extras["behaviour_logprobs"] = part.logprobs
        documents.append(sampled_document(part, extras, trained=trained, replay=replay))
    return documents


def _where(sampled: NDArray[np.bool_], value: float) -> Float32:
    return np.where(sampled, np.float32(value), np.float32(0.0))


def _split(rollouts: list[list[PackedBatch]], parts: int) -> list[list[list[PackedBatch]]]:
    """Deal the rollouts of one batch to its updates, in order (dynamic sampling may leave the last one smaller)."""
    size = -(-len(rollouts) // parts)
    return [rollouts[i : i + size] for i in range(0, len(rollouts), size)]


def _micro_batches(documents: list[PackedBatch], stage: GrpoStage, parallel: ParallelConfig) -> RolloutSource:
    return balanced_micro_batches(documents, stage.seq_length, parallel.data_parallel_size)


def with_logprobs(
    policy: TrainerGroup,
    source: RolloutSource,
    sizes: Sequence[int],
    loss: PolicyLossConfig,
    step: int,
    *,
    previous: bool,
) -> tuple[RolloutSource, int, list[Float32]]:
    """Add the log-probs that the loss needs and only a forward pass can give.

    Args:
        policy: the trainer.
        source: of the update.
        sizes: documents of each of its rollouts.
        loss: its switches.
        step: of the update.
        previous: the loss reads the trainer's log-probs as they are before it.

    Returns:
        The source, how many of its rollouts `sequence_error_max` took out of training, and the trainer's log-probs of
        each document, where they were needed.
    """
    filtered, scored = 0, list[Float32]()
    if previous or loss.sequence_error_max is not None:
        scored = source.per_sample(policy.logprobs(source, step))
        if loss.sequence_error_max is not None:
            source, filtered = _without_outliers(source, sizes, scored, loss.sequence_error_max)
        if previous:
            source = source.with_extra("previous_logprobs", scored)
    if loss.kl_coefficient > 0:
        own = source.without_routed_experts()  # the reference is another model, which chooses for itself
        reference = source.per_sample(policy.logprobs(own, step, which="reference"))
        source = source.with_extra("reference_logprobs", reference)
    return source, filtered, scored


def _without_outliers(
    source: RolloutSource, sizes: Sequence[int], trainer: Sequence[Float32], most: float
) -> tuple[RolloutSource, int]:
    """Take rollouts out of training on which trainer and engine disagree too much; return how many those are.

    A rollout of several documents goes or stays as a whole.
    """
    differences = []
    for document, logprobs_n in zip(source.documents, trainer, strict=True):
        trained_n = document.loss_mask > 0
        engine_n = document.extras["behaviour_logprobs"][trained_n]
        differences.append(logprobs_n[trained_n].astype(np.float64) - engine_n)
    keep: list[bool] = []
    filtered, end = 0, 0
    for size in sizes:
        begin, end = end, end + size
        difference_n = np.concatenate(differences[begin:end])
        kept = not difference_n.size or sequence_error(difference_n) <= most
        keep += [kept] * size
        filtered += not kept
    return source.trained_only(keep), filtered


def sequence_error(difference_n: NDArray[np.float64]) -> float:
    """Return the mean of exp(|difference|) over a response's tokens, at least 1; NaN counts as infinite.

    NeMo-RL's `seq_logprob_error_threshold` bounds it (compute_and_apply_seq_logprob_error_masking).
    """
    with np.errstate(over="ignore"):
        error = float(np.exp(np.abs(difference_n)).mean())
    return math.inf if math.isnan(error) else error


def trains(source: RolloutSource) -> bool:
    """Tell whether any token of an update is trained."""
    return any(document.loss_mask.any() for document in source.documents)
