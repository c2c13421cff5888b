"""How a stage gets its rollouts: a step's batch is drawn when it is due, ahead of it, or without an end beside it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nemo_cascade.actors.fleet import Member
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.rl.batch import RolloutBatch
from nemo_cascade.rl.collect import Collector
from nemo_cascade.rl.policy_side import PolicySide
from nemo_cascade.telemetry.timers import PhaseTimer

ROLLOUTS_AHEAD = "rollouts_ahead.pickle"
"""What is drawn and not trained yet, in a checkpoint."""
_ENDING_S = 20.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step's batch.

    Attributes:
        batch: judged rollouts.
        stage: the values that it was drawn with.
        said: what the step's log line says of how it was drawn.
    """

    batch: RolloutBatch
    stage: GrpoStage
    said: dict[str, Any]


class Drawing(ABC):
    """Draws the batches of a stage; leave it to let go of what nobody wants.

    Args:
        collector: whose stream, engines and judges are used.
        stage: how far ahead, by which rules, and how many steps there are.
        version_of: step -> the weight version that it trains.
        restore: gives an engine the policy's present weights, as a version.
        checkpoint: what the stage goes on from; its every byte is as it was written.
        first: step that comes next.
    """

    def __init__(
        self,
        collector: Collector,
        stage: GrpoStage,
        version_of: Callable[[int], int],
        restore: Callable[[Member, int], None],
        checkpoint: Path | None = None,
        first: int = 0,
    ) -> None:
        self._collector, self._stage = collector, stage
        self._policy = PolicySide(version_of, restore, first)
        self._worker = ThreadPoolExecutor(
            1, thread_name_prefix="rollouts"
        )  # who draws; the policy waits for nobody else
        self._begin(checkpoint, first)

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of what nobody wants."""

    @abstractmethod
    def _begin(self, checkpoint: Path | None, first: int) -> None:
        """Take up what a checkpoint holds."""

    @abstractmethod
    def settle(self, step: int) -> None:
        """Have the engines take weights: they have nothing to do, or keep what they have sampled.

        Args:
            step: the policy stands before it.

        Raises:
            CascadeError: what ended the drawing.
        """

    @abstractmethod
    def lend(self, step: int) -> None:
        """As `settle`; and the judges have nothing to do: somebody else asks both."""

    @abstractmethod
    def draw(self, step: int, stage_at: Callable[[int], GrpoStage], timer: PhaseTimer) -> None:
        """Draw, or go on drawing, what the weights of `step` are for.

        Args:
            step: whose weights the engines hold.
            stage_at: step -> the stage with its values.
            timer: takes the time of a batch that is drawn here and now.
        """

    @abstractmethod
    def take(self, step: int) -> Drawn:
        """Return a step's batch, waiting for it if need be.

        Raises:
            CascadeError: what ended the drawing.
            RolloutError: a rollout is older than `max_staleness` allows.
        """

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write what is drawn and not trained yet into a checkpoint; the engines have to have settled."""

    def _checked(self, drawn: Drawn, step: int) -> Drawn:
        """Check the rollouts' ages, and tell them where there are any."""
        mean, oldest = drawn.batch.check_ages(self._policy.version_of(step), self._stage.max_staleness)
        if self._stage.max_staleness:
            drawn.said.update(staleness_mean=mean, staleness_max=oldest)
        return drawn


def await_end(ending: Future[Any]) -> None:
    """Wait a while for who draws to come to an end, well or not; else it ends when the engines do."""
    with suppress(NotYetError):
        ending.exception(_ENDING_S)
