"""Hand the policy's weights to the engines, and prove that both hold and compute the same.

All policy ranks walk through the weights in step; rank 0 writes them into buckets in its memory, and the engines load
one bucket while the next is written. Then the engines' workers prove what they hold, and all score the same tokens.
"""

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from nemo_cascade.actors.agreement import Agreement, prove_equal
from nemo_cascade.actors.fleet import Member
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.rollout import WeightSyncConfig
from nemo_cascade.errors import ActorDiedError, CascadeError, DeadlineError
from nemo_cascade.rollout.buckets import DTYPES, SyncSummary, WeightBucket

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
        weights_proven: weights whose checksum every engine's workers computed and found to be the trainer's; 0 where
            it was not asked for.
        agreement: of the log-probs on the probe; None where not proven.
    """

    version: int
    seconds: float
    transfer_seconds: float
    bytes: int
    buckets: int
    weights_proven: int = 0
    agreement: Agreement | None = None


def sync_weights(
    policy: TrainerGroup, rollout: RolloutGroup, version: int, config: WeightSyncConfig, verify: bool
) -> SyncReport:
    """Give every engine the policy's present weights as `version`; prove that both sides are equal if `verify`.

    Raises:
        WeightSyncError: incomplete or changed weights, engines that hold others than were sent, or log-probs that
            differ by more than the limit.
        DeadlineError: not done within the deadline.
        ActorDiedError: a rank or an engine died.
    """
    started = time.monotonic()
    members = rollout.lacking(version)
    sent = _send(policy, rollout, members, version, config, verify) if members else SyncSummary.of([])
    transferred = time.monotonic()
    changes = policy.changes

    def restore(member: Member) -> None:
        if policy.changes != changes:
            raise ActorDiedError(
                f"{member.name} died holding weight version {version}, and the policy has gone on since",
                mend="resume the run: it goes on from the last checkpoint",
            )
        _send(policy, rollout, [member], version, config, verify)

    rollout.hold(version, restore)
    agreement = prove_equal(policy, rollout, config, version) if verify else None
    report = SyncReport(
        version=version,
        seconds=time.monotonic() - started,
        transfer_seconds=transferred - started,
        bytes=sent.nbytes,
        buckets=sent.buckets,
        weights_proven=sent.tensors if verify else 0,
        agreement=agreement,
    )
    log.debug("weights %d: %.1f MB in %.2f s", version, sent.nbytes / 1e6, report.transfer_seconds)
    if agreement is not None:
        log.info(
            "weights %d: %d proven equal by checksum; log-probs of trainer and engines differ by %s (by rounding "
            "alone: %s)",
            version,
            report.weights_proven,
            agreement.engines,
            agreement.floor,
        )
    return report


def sync_one(
    policy: TrainerGroup, rollout: RolloutGroup, member: Member, version: int, config: WeightSyncConfig
) -> None:
    """Give one engine the policy's present weights, while others go on with those they hold.

    Raises:
        ActorDiedError, DeadlineError, WeightSyncError: the hand-over failed.
    """
    _send(policy, rollout, [member], version, config, checksums=config.verify != "off")
    rollout.holds_alone(member, version)


def _send(
    policy: TrainerGroup,
    rollout: RolloutGroup,
    members: list[Member],
    version: int,
    config: WeightSyncConfig,
    checksums: bool,
) -> SyncSummary:
    fleet, end = rollout.fleet, time.monotonic() + config.deadline_s

    def left() -> float:
        remaining = end - time.monotonic()
        if remaining <= 0:
            raise DeadlineError("the weight hand-over took too long", limit=f"{config.deadline_s:g} s")
        return remaining

    here = policy.machine
    elsewhere = {m.name for m in members if m.info is not None and m.info.machine != here}
    buckets: list[WeightBucket] = []
    loading: deque[tuple[WeightBucket, dict[str, Any]]] = deque()

    def finish_oldest() -> None:
        bucket, refs = loading.popleft()
        fleet.gather(refs, "receive", left())
        sending.done(bucket)

    dtype = DTYPES[rollout.config.dtype]
    sending = policy.send_weights(config.bucket_mib * MIB, dtype, checksums=checksums, as_bytes=bool(elsewhere))
    try:
        fleet.call_on(members, "begin_update", version, deadline_s=left())
        with sending:
            while (taken := sending.take(left())) is not None:
                bucket, content = taken
                buckets.append(bucket)
                refs = {
                    m.name: m.handle.receive.remote(bucket, content if m.name in elsewhere else None) for m in members
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


def _abort(rollout: RolloutGroup, members: list[Member]) -> None:
    """Tell the engines that the hand-over is off; the error that ended it is what counts."""
    if rollout.fleet.broken:
        return
    try:
        rollout.fleet.call_on(members, "abort_update", deadline_s=ABORT_DEADLINE_S)
    except CascadeError as error:
        log.error("could not end the hand-over on the engines: %s", error)
