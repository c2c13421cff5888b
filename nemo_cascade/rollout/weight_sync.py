"""The engine's side of a weight hand-over, as a state machine.

    generating -> paused -> receiving -> verifying -> generating
                     ^          |            |
                     +-- broken <------------+

An engine that failed in the middle holds parts of two versions: it is broken, generates nothing, and only a complete
new hand-over brings it back.
"""

import time
from enum import StrEnum

from nemo_cascade.errors import DeadlineError, WeightSyncError


class SyncPhase(StrEnum):
    """What an engine is doing; only GENERATING may sample."""

    GENERATING = "generating"
    PAUSED = "paused"
    RECEIVING = "receiving"
    VERIFYING = "verifying"
    BROKEN = "broken"


LEGAL: dict[SyncPhase, frozenset[SyncPhase]] = {
    SyncPhase.GENERATING: frozenset({SyncPhase.PAUSED}),
    SyncPhase.PAUSED: frozenset({SyncPhase.RECEIVING, SyncPhase.GENERATING}),
    SyncPhase.RECEIVING: frozenset({SyncPhase.VERIFYING, SyncPhase.BROKEN}),
    SyncPhase.VERIFYING: frozenset({SyncPhase.GENERATING, SyncPhase.BROKEN}),
    SyncPhase.BROKEN: frozenset({SyncPhase.PAUSED}),
}


class SyncState:
    """Where an engine stands in its hand-over, and since when.

    Args:
        deadline_s: longest stay in one phase other than GENERATING and BROKEN.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.phase = SyncPhase.GENERATING
        self._since = time.monotonic()

    def move(self, target: SyncPhase) -> None:
        """Enter a phase.

        Raises:
            WeightSyncError: the step is not legal from the present phase.
            DeadlineError: the present phase took longer than the deadline.
        """
        if target not in LEGAL[self.phase]:
            raise WeightSyncError(
                "illegal step in the weight hand-over",
                value=f"{self.phase} -> {target}",
                limit=f"{self.phase} -> {' or '.join(sorted(LEGAL[self.phase]))}",
            )
        if target is not SyncPhase.BROKEN:
            self.check_deadline()
        self.phase, self._since = target, time.monotonic()

    def require(self, phase: SyncPhase, action: str) -> None:
        """Refuse an action that belongs to another phase, or to one that lasts too long.

        Raises:
            WeightSyncError: the engine is in another phase.
            DeadlineError: the phase took longer than the deadline.
        """
        if self.phase is not phase:
            raise WeightSyncError(
                f"the engine can't {action} now",
                value=f"phase {self.phase}",
                limit=f"phase {phase}",
                mend="hand over a complete set of weights first" if self.phase is SyncPhase.BROKEN else None,
            )
        self.check_deadline()

    def check_deadline(self) -> None:
        """Raise where the present phase of a hand-over has lasted too long.

        Raises:
            DeadlineError: it has.
        """
        if self.phase in (SyncPhase.GENERATING, SyncPhase.BROKEN):
            return
        elapsed = time.monotonic() - self._since
        if elapsed > self.deadline_s:
            raise DeadlineError(
                f"the weight hand-over hung in phase {self.phase}",
                value=f"{elapsed:.1f} s",
                limit=f"{self.deadline_s:g} s",
                mend="look at the policy ranks' logs, or raise rollout.weight_sync.deadline_s",
            )
