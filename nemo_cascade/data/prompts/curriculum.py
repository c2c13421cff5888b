"""From easy to hard: the pass rates of a batch's prompts follow a Gaussian whose mean falls step by step.

    target pass rates of step s ~ N(mean(s), spread), cut to [0, 1];  mean(s) from mean_from to mean_to in `steps` steps
    for each target: the prompt of the nearest pass rate that this epoch hasn't seen yet

(arXiv 2512.20848, section 3.2; the paper gives no numbers.) When the reward no longer rises, the prompts are profiled
anew with the policy as it is by then, and the mean starts again at mean_from. All follows from the seed and the state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nemo_cascade.config.stages.rollout_rules import CurriculumConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.prompt_stream import digest_of
from nemo_cascade.errors import DataError
from nemo_cascade.types import Task


class CurriculumStream:
    """Draw different prompts of the difficulty that is due.

    Args:
        prompts: with their pass rates.
        seed: of the run.
        config: the slide.
        state: what `state` returned earlier; None starts anew.

    Raises:
        DataError: the state is of other prompts, or no pass rates are known.
    """

    def __init__(
        self, prompts: PromptSet, seed: int, config: CurriculumConfig, state: Mapping[str, Any] | None = None
    ) -> None:
        if len(prompts.rates) != len(prompts):
            mend = "set `profile.path` of every task of the stage"
            raise DataError("a curriculum needs the prompts' pass rates", value=prompts.source, mend=mend)
        self.prompts, self.seed, self.config = prompts, seed, config
        self._digest, self._step = digest_of(prompts), 0
        if state is not None and state["prompts"] != self._digest:
            value = f"{len(prompts)} prompts in {prompts.source}"
            raise DataError("the prompts changed since the checkpoint", value=value, mend="bring the file back")
        state = state or {"rates": prompts.rates, "seen": "", "drawn": 0, "epoch": 0, "since": 0}
        self._rates = np.array(state["rates"], np.float64)
        self._seen = np.zeros(len(prompts), bool)
        if state["seen"]:
            packed = np.frombuffer(bytes.fromhex(state["seen"]), np.uint8)
            self._seen = np.unpackbits(packed, count=len(prompts)).astype(bool)
        self._drawn, self._epoch, self._since = int(state["drawn"]), int(state["epoch"]), int(state["since"])
        self._last: list[float] = []

    def state(self) -> dict[str, Any]:
        """Return what it goes on from, JSON-like."""
        told = {"rates": self._rates.tolist(), "seen": np.packbits(self._seen).tobytes().hex(), "since": self._since}
        return {"prompts": self._digest, "drawn": self._drawn, "epoch": self._epoch, **told}

    def at(self, step: int) -> None:
        """Tell which step prompts are drawn for."""
        self._step, self._last = step, []

    @property
    def mean(self) -> float:
        """The mean of the pass rates that are due."""
        gone = min(1.0, (self._step - self._since) / max(1, self.config.steps))
        return self.config.mean_from + gone * (self.config.mean_to - self.config.mean_from)

    def take(self, n: int) -> list[Task]:
        """Draw n prompts, all different.

        Raises:
            DataError: n is more than there are.
        """
        if n > len(self.prompts):
            raise self.prompts.too_few(n)
        dice = np.random.default_rng([self.seed, self._epoch, self._drawn])
        targets = np.clip(dice.normal(self.mean, self.config.spread, n), 0.0, 1.0)
        taken: list[int] = []
        for target in targets:
            if self._seen.all():
                self._epoch += 1
                self._seen[:] = False
                self._seen[taken] = True  # none twice in a batch
            distance = np.where(self._seen, np.inf, np.abs(self._rates - target))
            nearest = np.flatnonzero(distance <= distance.min() + 1e-9)
            chosen = int(nearest[dice.integers(len(nearest))])
            taken.append(chosen)
            self._seen[chosen] = True
        self._drawn += n
        self._last += [float(self._rates[i]) for i in taken]
        return self.prompts.asked(taken)

    def note(self, task_id: str, *, solved_all: bool, solved_none: bool) -> None:
        """A prompt's outcome changes nothing until the prompts are profiled anew."""

    def passed_over(self, task_id: str) -> None:
        """A group that is thrown away needs no other in its place here: all prompts are alike."""

    def profiled(self, rates: Sequence[float]) -> None:
        """Take new pass rates; the slide starts again with this step."""
        self._rates, self._since = np.array(rates, np.float64), self._step
        self._seen[:] = False

    def metrics(self) -> dict[str, Any]:
        """Return what a step's log line says of the slide."""
        drawn = float(np.mean(self._last)) if self._last else None
        return {"curriculum": {"target_pass_rate": self.mean, "drawn_pass_rate": drawn, "since_step": self._since}}
