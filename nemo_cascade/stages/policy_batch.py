"""From judged rollouts to optimizer steps: packs with per-token advantages, and the log-probs some losses need."""

from __future__ import annotations

from nemo_cascade.actors.policy import PolicyGroup
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stage import GrpoStage
from nemo_cascade.data.batches import RolloutSource, balanced_micro_batches
from nemo_cascade.data.layout import Document, rollout_document
from nemo_cascade.stages.collect import RolloutBatch
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.training.setup import StepResult
from nemo_cascade.types import Float32


def policy_updates(
    policy: PolicyGroup, batch: RolloutBatch, stage: GrpoStage, config: RunConfig, step: int, timer: PhaseTimer
) -> list[StepResult]:
    """Make the optimizer steps of one rollout batch: one for Cascade, several where a recipe reuses its rollouts."""
    parts = _split(rollout_documents(batch, stage), stage.updates_per_batch)
    sources = [_micro_batches(part, stage, config.parallel) for part in parts]
    first = step * stage.updates_per_batch
    with timer.phase("logprob"):
        sources = [_with_logprobs(policy, source, stage, first + i) for i, source in enumerate(sources)]
    with timer.phase("train"):
        return [policy.train_step(source, first + i) for i, source in enumerate(sources)]


def rollout_documents(batch: RolloutBatch, stage: GrpoStage) -> list[Document]:
    """Return one document per rollout, in batch order; an advantage is the same on all tokens of its rollout."""
    documents = []
    for group, advantages, trained in zip(batch.rollouts, batch.advantages, batch.trained, strict=True):
        for rollout, advantage, is_trained in zip(group, advantages, trained, strict=True):
            extras: dict[str, float | Float32] = {
                "advantages": float(advantage),
                "behaviour_logprobs": rollout.logprobs,
            }
            if stage.loss.aggregation == "sequence":
                extras["sequence_weights"] = 1.0 / rollout.response_ids.size
            documents.append(rollout_document(rollout, extras, trained=bool(is_trained)))
    return documents


def _split(documents: list[Document], parts: int) -> list[list[Document]]:
    """Deal the documents of one batch to its updates, in order (dynamic sampling may leave the last one smaller)."""
    size = -(-len(documents) // parts)
    return [documents[i : i + size] for i in range(0, len(documents), size)]


def _micro_batches(documents: list[Document], stage: GrpoStage, parallel: ParallelConfig) -> RolloutSource:
    return balanced_micro_batches(
        documents, stage.seq_length, parallel.data_parallel_size, document_multiple=parallel.document_multiple
    )


def _with_logprobs(policy: PolicyGroup, source: RolloutSource, stage: GrpoStage, step: int) -> RolloutSource:
    """Add the log-probs that the loss needs and only a forward pass can give."""
    if stage.updates_per_batch > 1:
        source = source.with_extra("previous_logprobs", source.per_sample(policy.logprobs(source, step)))
    if stage.loss.kl_coefficient > 0:
        reference = source.per_sample(policy.logprobs(source, step, which="reference"))
        source = source.with_extra("reference_logprobs", reference)
    return source
