"""Rollouts ahead of the step that trains them: engines draw while the policy trains what was drawn before.

    max_staleness 0     a step's batch is drawn when it is due, with the weights that it trains
    max_staleness k     with the weights of step t the batch of step t + k is drawn, while step t trains

Weights change between batches alone, when the engines have nothing to do, and which weights draw a batch follows from
its number: a stage that is stopped goes on as if it hadn't been, from the batches that its checkpoint holds.

One worker draws one batch after another, and the policy waits for nobody else (policy_side.py).
"""

import pickle
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.rl.drawing.base import ROLLOUTS_AHEAD, Drawing, Drawn, await_end
from nemo_cascade.telemetry.timers import PhaseTimer


class Ahead(Drawing):
    """Draws batches up to `max_staleness` steps before they are due."""

    def _begin(self, checkpoint: Path | None, first: int) -> None:
        self._most, self._steps = self._stage.max_staleness, self._stage.steps
        self._drawn: dict[int, Drawn | Future[Drawn]] = dict(enumerate(self._read(checkpoint), first))
        self._next = first + len(self._drawn)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the batch that is being drawn come to its end, or after an error give it up."""
        if error is not None:
            self._policy.end()
        self._worker.shutdown(wait=error is None, cancel_futures=True)
        if error is not None:
            for drawn in self._drawn.values():
                if isinstance(drawn, Future) and not drawn.cancelled():
                    await_end(drawn)

    def settle(self, step: int) -> None:
        """Wait until the engines have nothing to do."""
        self._policy.step = step
        for number, drawn in self._drawn.items():
            self._drawn[number] = self._wait(drawn)

    def lend(self, step: int) -> None:
        """As `settle`: judges are done by then, too."""
        self.settle(step)

    def draw(self, step: int, stage_at: Callable[[int], GrpoStage], timer: PhaseTimer) -> None:
        """Draw, or begin to, all batches that the weights of `step` are for."""
        due = range(self._next, min(step + self._most + 1, self._steps))
        self._next = max(self._next, due.stop)
        if self._most and due:
            engines = self._collector.by.engines
            engines.hold(engines.version, self._policy.give_weights)
        for number in due:
            stage = stage_at(number)
            if self._most:
                self._drawn[number] = self._worker.submit(self._collect, number, stage, PhaseTimer(), apart=True)
            else:
                self._drawn[number] = self._collect(number, stage, timer, apart=False)

    def take(self, step: int) -> Drawn:
        """Return a step's batch; it is drawn already or being drawn."""
        return self._checked(self._wait(self._drawn.pop(step)), step)

    def write(self, folder: Path) -> None:
        """Write the batches ahead, where there are any."""
        if not self._most:
            return
        held = []
        for _, drawn in sorted(self._drawn.items()):
            assert isinstance(drawn, Drawn), "a checkpoint is written when the engines have settled"
            batch = drawn.batch
            held.append((batch.groups, batch.dropped_groups, batch.rounds, drawn.stage, drawn.said))
        (folder / ROLLOUTS_AHEAD).write_bytes(pickle.dumps(held))

    def _read(self, checkpoint: Path | None) -> list[Drawn]:
        if checkpoint is None or not self._most:
            return []
        held = pickle.loads((checkpoint / ROLLOUTS_AHEAD).read_bytes())
        return [
            Drawn(self._collector.batch_of(groups, dropped, rounds), stage, said)
            for groups, dropped, rounds, stage, said in held
        ]

    def _wait(self, drawn: Drawn | Future[Drawn]) -> Drawn:
        return self._policy.wait(drawn) if isinstance(drawn, Future) else drawn

    def _collect(self, step: int, stage: GrpoStage, timer: PhaseTimer, *, apart: bool) -> Drawn:
        self._collector.stage = stage
        batch = self._collector.collect(step, timer, self._policy.check_wanted)
        said = {**batch.metrics(), **self._collector.stream.metrics()}
        if apart:
            said["seconds_ahead"] = timer.finish()
        return Drawn(batch, stage, said)
