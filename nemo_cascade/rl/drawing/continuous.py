"""Continuous generation beside the step that trains: as `Ahead`, and what stands in a step's batch is a matter of time.

One thread drives the generation, round after round; whatever else is asked of it is done between two rounds.
"""

import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.rl.continuous.generation import Generation, Held
from nemo_cascade.rl.drawing.base import ROLLOUTS_AHEAD, Drawing, Drawn, await_end
from nemo_cascade.telemetry.timers import PhaseTimer

# How long engines sample before they are told of new questions, where no answer ends.
_GLANCE_S = 0.02
Result = TypeVar("Result")


class Continuous(Drawing):
    """Generates until the stage is left."""

    def _begin(self, checkpoint: Path | None, first: int) -> None:
        held: Held | None = None
        if checkpoint is not None:
            held = pickle.loads((checkpoint / ROLLOUTS_AHEAD).read_bytes())
        self._generation = Generation(self._collector, self._stage, first, held)
        self._runs = False
        self._latest: Future[None] = Future()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up what is under way."""
        self._runs = False
        self._policy.end()
        ending = self._worker.submit(self._generation.close)
        self._worker.shutdown(wait=False)
        await_end(ending)

    def settle(self, step: int) -> None:
        """Have the engines keep what they have sampled."""
        self._policy.step, self._runs = step, False
        self._call(lambda: self._generation.pause(step))

    def lend(self, step: int) -> None:
        """As `settle`; and the judges have nothing to do: somebody else asks both."""
        self.settle(step)
        self._call(self._generation.hear_judges)

    def draw(self, step: int, stage_at: Callable[[int], GrpoStage], timer: PhaseTimer) -> None:
        """Go on, with the weights of `step`, which the engines hold."""
        engines, stage = self._collector.by.engines, stage_at(step)
        engines.hold(engines.version, self._policy.give_weights)

        def go_on() -> None:
            self._generation.resume(step, stage)
            self._runs = True
            self._latest = self._worker.submit(self._round)

        self._call(go_on)

    def take(self, step: int) -> Drawn:
        """Return a step's batch, waiting for it."""
        while (drawn := self._call(self._generation.take)) is None:
            pass  # each call lets a round of the generation pass
        return self._checked(drawn, step)

    def write(self, folder: Path) -> None:
        """Write what is whole and what is under way."""
        (folder / ROLLOUTS_AHEAD).write_bytes(pickle.dumps(self._call(self._generation.held)))

    def _call(self, act: Callable[[], Result]) -> Result:
        """Have the generation's thread do something between two rounds."""
        if self._latest.done():
            self._latest.result()  # or what ended the generation
        return self._policy.wait(self._worker.submit(act))

    def _round(self) -> None:
        if not self._runs:
            return
        self._policy.check_wanted()
        if not self._generation.pump(_GLANCE_S) and not self._generation.is_sampling:
            time.sleep(_GLANCE_S)
        self._latest = self._worker.submit(self._round)  # one that fails stays the latest
