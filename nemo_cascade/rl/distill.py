"""One batch of on-policy distillation: responses of the policy, their teachers' word on each token, one update.

sample     the policy answers each prompt; nobody judges
teach      the teacher of each response's domain scores its tokens
update     advantage = teacher - student, gated by trainer / engine       (losses/teacher.py, losses/policy.py)
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_cascade.actors.frozen import FrozenGroup
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.distill import DistillStage
from nemo_cascade.data.batches import RolloutSource, balanced_micro_batches
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.errors import RolloutError, TrainingError
from nemo_cascade.rl.ask import play
from nemo_cascade.rl.episodes import Episode, Episodes
from nemo_cascade.rl.updates import response_documents, trains, with_logprobs
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.training.setup import StepResult
from nemo_cascade.types import FinishReason, Float32, Place, Task, Trajectory


@dataclass(frozen=True, slots=True)
class Response:
    """One response to one prompt.

    Attributes:
        task: the prompt.
        answer: what was said.
        failed: why it isn't trained, an engine's or an environment's failure; empty where it is.
    """

    task: Task
    answer: Trajectory
    failed: str


@dataclass(frozen=True, slots=True)
class Distilled:
    """What became of a batch.

    Attributes:
        result: of the optimizer step; None where no response was left to train on.
        filtered: responses that `loss.sequence_error_max` took out of training.
        teacher_seconds: a teacher's domains, joined by `+` -> seconds that its scoring took.
        source: the documents with all log-probs, in the batch's order.
    """

    result: StepResult | None
    filtered: int
    teacher_seconds: dict[str, float]
    source: RolloutSource


def sample(
    tasks: Sequence[Task],
    stage: DistillStage,
    seed: int,
    engines: RolloutGroup,
    hosts: EnvironmentHosts,
    config: RunConfig,
    timer: PhaseTimer,
) -> list[Response]:
    """Have the policy answer each prompt; return its responses, prompt by prompt.

    Raises:
        RolloutError: more of them failed than reward.max_error_fraction allows.
    """
    over: dict[Place, Response] = {}

    def take(episodes: Sequence[Episode]) -> None:
        for episode in episodes:
            answer, verdict = episode.trajectory, episode.verdict
            assert answer is not None, "what is over was answered"
            aborted = "aborted rollout" * (answer.finish_reason == FinishReason.ABORT)
            failed = f"{verdict.error}: {verdict.detail}" if verdict is not None and verdict.error else aborted
            over[answer.place] = Response(episode.task, answer, failed)

    room = config.rollout.max_model_len - stage.sampling.max_tokens
    with (
        timer.phase("generate"),
        Episodes(tasks, stage.num_generations, hosts, room, config.reward.deadline_s) as episodes,
    ):
        play(episodes, engines, stage.sampling, seed, take, config.environments.turns)
    responses = [over[task.task_id, number] for task in tasks for number in range(stage.num_generations)]
    failed, limit = [r.failed for r in responses if r.failed], config.reward.max_error_fraction
    if len(failed) > limit * len(responses):
        raise RolloutError(
            "too many responses failed",
            value=f"{len(failed)} of {len(responses)} ({'; '.join(sorted(set(failed))[:3])})",
            limit=f"{limit:.1%}",
            mend="look at the environment and its deadline, or raise reward.max_error_fraction",
        )
    return responses


def distill_update(
    policy: TrainerGroup,
    teachers: FrozenGroup,
    taught_by: Mapping[str, str],
    responses: Sequence[Response],
    stage: DistillStage,
    config: RunConfig,
    step: int,
    timer: PhaseTimer,
) -> Distilled:
    """Make the optimizer step of a batch.

    Args:
        policy: the student.
        teachers: hold every folder of `taught_by`.
        taught_by: domain -> its teacher's folder.
        responses: of the batch.
        stage: the stage.
        config: the run.
        step: of the stage, from 0.
        timer: whose phases `logprob`, `teachers` and `train` this takes.

    Raises:
        TrainingError: a teacher's log-probability of a trained token isn't finite.
    """
    parts = [response_documents(r.answer, stage.loss, trained=not r.failed) for r in responses]
    documents = [document for part in parts for document in part]
    domains = [r.task.domain for r, part in zip(responses, parts, strict=True) for _ in part]
    source = balanced_micro_batches(documents, stage.seq_length, config.parallel.data_parallel_size)
    with timer.phase("logprob"):
        previous = stage.advantage.student == "previous"
        sizes = [len(part) for part in parts]
        source, filtered, _ = with_logprobs(policy, source, sizes, stage.loss, step, previous=previous)
    with timer.phase("teachers"):
        source, seconds = teach(source, domains, teachers, taught_by, stage.seq_length)
    with timer.phase("train"):
        result = policy.train_step(source, step) if trains(source) else None
    return Distilled(result, filtered, seconds, source)


def teach(
    source: RolloutSource,
    domains: Sequence[str],
    teachers: FrozenGroup,
    taught_by: Mapping[str, str],
    seq_length: int,
) -> tuple[RolloutSource, dict[str, float]]:
    """Add each document's log-probs by its domain's teacher, who sees no other documents.

    Returns:
        The source with `teacher_logprobs`, and the seconds that each teacher's scoring took, by its domains.

    Raises:
        TrainingError: one of a trained token isn't finite.
    """
    found: list[Float32] = [np.zeros(0, np.float32)] * len(domains)
    seconds: dict[str, float] = {}
    replicas = teachers.parallel.layout.dp
    for folder in dict.fromkeys(taught_by.values()):
        taught = [domain for domain, by in taught_by.items() if by == folder]
        mine = [i for i, domain in enumerate(domains) if domain in taught]
        if not mine:
            continue
        began = time.monotonic()
        part = balanced_micro_batches([source.documents[i] for i in mine], seq_length, replicas)
        for i, logprobs_n in zip(mine, part.per_sample(teachers.logprobs(folder, part)), strict=True):
            if not np.isfinite(logprobs_n[source.documents[i].loss_mask > 0]).all():
                raise TrainingError(
                    "a teacher's log-probabilities aren't finite", value=folder, mend="its weights are broken"
                )
            found[i] = logprobs_n
        seconds["+".join(taught)] = time.monotonic() - began
    return source.with_extra("teacher_logprobs", found), seconds


def distill_line(responses: Sequence[Response], distilled: Distilled) -> dict[str, Any]:
    """Return what a step's log line says of its responses: as a whole, and by domain.

    `reverse_kl_by_domain` of a domain is the mean of logp_engine - logp_teacher over its trained tokens: an estimate of
    KL(student || teacher), as the engine sampled them.
    """
    lengths = [r.answer.num_sampled for r in responses]
    told: dict[str, Any] = {
        **_lengths(responses),
        "response_length_p50": float(np.percentile(lengths, 50)),
        "response_length_p95": float(np.percentile(lengths, 95)),
        "response_length_max": max(lengths),
        "responses": len(responses),
        "responses_failed": sum(bool(r.failed) for r in responses),
        "rollouts_filtered": distilled.filtered,
        "updates_empty": int(distilled.result is None),
        "teacher_seconds": distilled.teacher_seconds,
    }
    if distilled.result is not None and (masked := distilled.result.metrics.get("correction_fraction")) is not None:
        told["gate_share"] = 1.0 - masked
    gaps = response_gaps(responses, distilled.source)
    by_domain: dict[str, dict[str, Any]] = {}
    for domain in sorted({r.task.domain for r in responses}):
        mine = [i for i, r in enumerate(responses) if r.task.domain == domain]
        gap_n = np.concatenate([gaps[i] for i in mine])
        found = {
            "responses": len(mine),
            "reverse_kl": float(gap_n.mean()) if gap_n.size else None,
            **_lengths([responses[i] for i in mine]),
        }
        for name, value in found.items():
            by_domain.setdefault(f"{name}_by_domain", {})[domain] = value
    return told | by_domain


def response_gaps(responses: Sequence[Response], source: RolloutSource) -> list[Float32]:
    """Return logp_engine - logp_teacher of each response's trained tokens, one array a response."""
    gaps, documents = [], iter(source.documents)
    for response in responses:
        parts = [next(documents) for _ in response.answer.parts]
        gap = [(d.extras["behaviour_logprobs"] - d.extras["teacher_logprobs"])[d.loss_mask > 0] for d in parts]
        gaps.append(np.concatenate(gap))
    return gaps


def _lengths(responses: Sequence[Response]) -> dict[str, float]:
    truncated = [r.answer.finish_reason == FinishReason.LENGTH for r in responses]
    return {
        "response_length_mean": float(np.mean([r.answer.num_sampled for r in responses])),
        "truncation_rate": float(np.mean(truncated)),
    }
