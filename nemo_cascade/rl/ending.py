"""When a stage is over: after its steps, or earlier by a rule on what its rollouts show.

    truncation   mean share of truncated rollouts over the last `window` steps has reached a value, from the side on
                 which the first window's mean was (arXiv 2512.13607, section 4.5: about a tenth ends a sub-stage)
    plateau      mean reward over the last `window` steps hasn't risen above its best for `plateau_steps` steps

Both look only at whole windows, and only from `min_steps` on. What they look at is part of a checkpoint, so that a
resumed stage ends where an undisturbed one does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.config.stages.rollout_rules import EndConfig


@dataclass(frozen=True, slots=True)
class End:
    """Why a stage is over.

    Attributes:
        rule: `steps`, `truncation_rate` or `plateau`.
        step: steps done.
        value: the last window's mean: truncation rate, or reward; None for `steps`.
        limit: what it was compared with: the rate to reach, or the best mean and its margin; None for `steps`.
    """

    rule: str
    step: int
    value: float | None = None
    limit: float | None = None


class Ending:
    """Watch a stage's steps.

    Args:
        rules: when it ends early.
        steps: when it ends at the latest.
        history: of earlier steps, as in `history` (resume).
    """

    def __init__(self, rules: EndConfig, steps: int, history: Sequence[Sequence[float]] = ()) -> None:
        self.rules, self.steps = rules, steps
        self.history = [[float(reward), float(rate)] for reward, rate in history]
        """[steps done][2]: mean reward, truncation rate."""

    def see(self, reward: float, truncation_rate: float) -> None:
        """Take note of a step."""
        self.history.append([reward, truncation_rate])

    @property
    def reached(self) -> End | None:
        """Why the stage is over; None while it isn't."""
        step = len(self.history)
        if step >= max(self.rules.min_steps, self.rules.window):
            for end in (self._truncation(), self._plateau()):
                if end is not None:
                    return end
        return End("steps", step) if step >= self.steps else None

    def _truncation(self) -> End | None:
        limit = self.rules.truncation_rate
        if limit is None:
            return None
        rates = self._means(1)
        there = rates[-1] <= limit if rates[0] > limit else rates[-1] >= limit
        return End("truncation_rate", len(self.history), float(rates[-1]), limit) if there else None

    def _plateau(self) -> End | None:
        patience = self.rules.plateau_steps
        if patience is None:
            return None
        rewards = self._means(0)
        best, since = rewards[0], 0
        for mean in rewards[1:]:
            best, since = (mean, 0) if mean > best + self.rules.plateau_margin else (best, since + 1)
        if since < patience:
            return None
        return End("plateau", len(self.history), float(rewards[-1]), float(best) + self.rules.plateau_margin)

    def _means(self, column: int) -> NDArray[np.float64]:
        """Return the means of all windows, oldest first, [steps done - window + 1]."""
        values = np.array([entry[column] for entry in self.history])
        return np.asarray(np.lib.stride_tricks.sliding_window_view(values, self.rules.window).mean(axis=1))
