"""Hand the policy's weights to the engines, and prove that both compute the same.

All policy ranks walk through the weights in step; rank 0 writes them into buckets in shared memory, and the engines
load one bucket while the next is written. Then trainer and engines score the same random tokens.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.actors.fleet import Member
from nemo_cascade.actors.policy import PolicyGroup
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.config.json_file import read_json_object
from nemo_cascade.config.rollout import WeightSyncConfig
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.layout import Document
from nemo_cascade.errors import ActorDiedError, CascadeError, DeadlineError, WeightSyncError
from nemo_cascade.rollout.buckets import DTYPES, SyncSummary, WeightBucket
from nemo_cascade.types import Float32, Int32

log = logging.getLogger(__name__)

MIB = 1 << 20
ABORT_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a hand-over took and, where it was proven, how well both sides agree.

    Attributes:
        version: weight version that the engines hold now.
        seconds: of everything, the proof included.
        transfer_seconds: of the weights alone.
        bytes: of the weights, once.
        buckets: number of buckets.
        max_logprob_difference: largest |trainer - engine| on the probe; None where not proven.
        mean_logprob_difference: mean of the same.
    """

    version: int
    seconds: float
    transfer_seconds: float
    bytes: int
    buckets: int
    max_logprob_difference: float | None = None
    mean_logprob_difference: float | None = None

    def metrics(self) -> dict[str, float | int | None]:
        """Return the fields as they are logged."""
        return {
            "sync_version": self.version,
            "sync_seconds": self.seconds,
            "sync_transfer_seconds": self.transfer_seconds,
            "sync_bytes": self.bytes,
            "sync_gb_per_second": self.bytes / 1e9 / max(self.transfer_seconds, 1e-9),
            "sync_max_logprob_difference": self.max_logprob_difference,
        }


def sync_weights(
    policy: PolicyGroup, rollout: RolloutGroup, version: int, config: WeightSyncConfig, verify: bool
) -> SyncReport:
    """Give every engine the policy's present weights as `version`; prove equality if `verify`.

    Raises:
        WeightSyncError: incomplete or changed weights, or log-probs that differ by more than the limit.
        DeadlineError: not done within the deadline.
        ActorDiedError: a rank or an engine died.
    """
    started = time.monotonic()
    members = rollout.fleet.members
    sent = _send(policy, rollout, members, version, config)
    transferred = time.monotonic()
    changes = policy.changes

    def restore(member: Member) -> None:
        if policy.changes != changes:
            raise ActorDiedError(
                f"{member.name} died holding weight version {version}, and the policy has gone on since",
                mend="resume the run: it goes on from the last checkpoint",
            )
        _send(policy, rollout, [member], version, config)

    rollout.hold(version, restore)
    difference = prove_equal(policy, rollout, config, version) if verify else None
    report = SyncReport(
        version=version,
        seconds=time.monotonic() - started,
        transfer_seconds=transferred - started,
        bytes=sent.nbytes,
        buckets=sent.buckets,
        max_logprob_difference=difference[0] if difference else None,
        mean_logprob_difference=difference[1] if difference else None,
    )
    log.debug("weights %d: %.1f MB in %.2f s", version, sent.nbytes / 1e6, report.transfer_seconds)
    return report


def _send(
    policy: PolicyGroup, rollout: RolloutGroup, members: list[Member], version: int, config: WeightSyncConfig
) -> SyncSummary:
    fleet, end = rollout.fleet, time.monotonic() + config.deadline_s

    def left() -> float:
        remaining = end - time.monotonic()
        if remaining <= 0:
            raise DeadlineError("the weight hand-over took too long", limit=f"{config.deadline_s:g} s")
        return remaining

    here = policy.machine
    by_message = any(m.info is not None and m.info.machine != here for m in members)
    buckets: list[WeightBucket] = []
    loading: deque[tuple[WeightBucket, dict[str, Any]]] = deque()

    def finish_oldest() -> None:
        bucket, refs = loading.popleft()
        fleet.gather(refs, "receive", left())
        Path(bucket.path).unlink(missing_ok=True)

    folder = rollout.cluster.shared_memory / f"version-{version}-{time.monotonic_ns()}"
    folder.mkdir()
    stream = policy.send_weights(
        folder, config.bucket_mib * MIB, DTYPES[rollout.config.dtype], config.deadline_s, by_message=by_message
    )
    try:
        fleet.call_on(members, "begin_update", version, deadline_s=left())
        with contextlib.closing(stream):
            for bucket, payload in stream:
                buckets.append(bucket)
                refs = {
                    m.name: m.handle.receive.remote(
                        bucket, payload if m.info is not None and m.info.machine != here else None
                    )
                    for m in members
                }
                loading.append((bucket, refs))
                if len(loading) > 1:
                    finish_oldest()
            while loading:
                finish_oldest()
        summary = SyncSummary.of(buckets)
        fleet.call_on(members, "finish_update", summary, deadline_s=left())
        return summary
    except CascadeError:
        _abort(rollout, members)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _abort(rollout: RolloutGroup, members: list[Member]) -> None:
    """Tell the engines that the hand-over is off; the error that ended it is what counts."""
    if rollout.fleet.broken:
        return
    try:
        rollout.fleet.call_on(members, "abort_update", deadline_s=ABORT_DEADLINE_S)
    except CascadeError as error:
        log.error("could not end the hand-over on the engines: %s", error)


def prove_equal(
    policy: PolicyGroup, rollout: RolloutGroup, config: WeightSyncConfig, version: int
) -> tuple[float, float]:
    """Compare trainer and every engine on random tokens. Returns the largest and the mean |difference| of log-probs.

    Random tokens are unlikely ones, where a wrong weight shows most. A probe sequence is cut to what both sides can
    take.

    Raises:
        WeightSyncError: the largest difference or the mean is over its limit, with the place and both values.
    """
    sequences = _probe_sequences(policy, rollout, config, version)
    parallel = policy.parallel
    documents = [Document(s, np.ones(s.size, np.uint8)) for s in sequences]
    source = balanced_micro_batches(
        documents, policy.seq_length, parallel.data_parallel_size, parallel.document_multiple
    )
    trainer = [scores[1:] for scores in source.per_sample(policy.logprobs(source, 0))]
    worst, mean = 0.0, 0.0
    for name, engine in rollout.probe_each(sequences, policy.temperature).items():
        largest, average = _compare(name, trainer, engine, config.limits(policy.dtype, rollout.config.dtype))
        worst, mean = max(worst, largest), max(mean, average)
    return worst, mean


def _probe_sequences(policy: PolicyGroup, rollout: RolloutGroup, config: WeightSyncConfig, version: int) -> list[Int32]:
    model = read_json_object(Path(rollout.model_path) / "config.json")
    multiple = policy.parallel.document_multiple
    longest = min(config.probe_tokens, rollout.config.max_model_len - 1, policy.seq_length // multiple * multiple)
    random = np.random.default_rng([rollout.seed, version])
    return [
        random.integers(0, model["vocab_size"], size=longest, dtype=np.int32) for _ in range(config.probe_sequences)
    ]


def _compare(
    name: str, trainer: list[Float32], engine: list[Float32], limits: tuple[float, float]
) -> tuple[float, float]:
    a, b = np.concatenate(trainer).astype(np.float64), np.concatenate(engine).astype(np.float64)
    difference = np.abs(a - b)
    worst = int(np.argmax(np.where(np.isfinite(difference), difference, np.inf)))
    largest, mean = float(difference[worst]), float(difference.mean())
    if not (largest <= limits[0] and mean <= limits[1]):
        raise WeightSyncError(
            f"trainer and {name} don't compute the same log-probs",
            value=f"max {largest:.3g}, mean {mean:.3g} over {a.size} tokens; worst: trainer {a[worst]:.4f}, "
            f"engine {b[worst]:.4f}",
            limit=f"max {limits[0]:g}, mean {limits[1]:g} (rollout.weight_sync.max_logprob_difference)",
            mend="the engine holds other weights or computes another model: a missed sync, a dtype too coarse for "
            "the limit, or a wrong weight map",
        )
    return largest, mean
