"""A curriculum's new pass rates, when the reward no longer rises: all prompts are asked anew, of the present policy."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.rollout_rules import EndConfig
from nemo_cascade.data.prompts.curriculum import CurriculumStream
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.shares import SharedStream
from nemo_cascade.data.prompts.streams import Stream
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.collect import rollout_seed
from nemo_cascade.rl.ending import Ending
from nemo_cascade.rl.profile import pass_rates
from nemo_cascade.telemetry.timers import PhaseTimer

log = logging.getLogger(__name__)

# Seeds of profiles lie apart from those of a step's generation rounds.
_PROFILE_ROUND = 1_000_000


class Profiling:
    """Watches a stage's rewards; where its curriculum has no plateau to look for, nothing is ever due.

    Args:
        stage: the stage.
        prompts: all of them.
        stream: whose pass rates these are.
        by: who answers and judges.
        state: what `state` returned earlier; None starts anew.
    """

    def __init__(
        self,
        stage: GrpoStage,
        prompts: PromptSet,
        stream: Stream,
        by: Answerers,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._stage, self._prompts, self._by = stage, prompts, by
        self._streams = _curricula(prompts, stream)
        rules = stage.curriculum
        self._rule = EndConfig(plateau_steps=rules.profile_on_plateau, window=rules.plateau_window)
        self._watch = Ending(self._rule, sys.maxsize, (state or {}).get("rewards", []))

    def state(self) -> dict[str, Any]:
        """Return what it goes on from, JSON-like."""
        return {"rewards": self._watch.history}

    def see(self, reward: float) -> None:
        """Take note of a step's reward."""
        if self._streams and self._rule.plateau_steps is not None:
            self._watch.see(reward, 0.0)

    def if_due(self, step: int, timer: PhaseTimer) -> dict[str, Any]:
        """Profile the prompts anew if the reward has stopped to rise; return what the step's line says of it.

        Raises:
            RewardError: more verdicts are errors than reward.max_error_fraction allows.
        """
        end = self._watch.reached
        if end is None:
            return {}
        seed, rules = rollout_seed(self._by.config.seed, step, _PROFILE_ROUND), self._stage.curriculum
        self._by.judges.group_size = rules.profile_samples
        found: dict[str, float] = {}
        asked = pass_rates(self._prompts.prompts, rules.profile_samples, self._stage.sampling, seed, self._by, timer)
        for _, rates in asked:
            found |= {name: rate.rate or 0.0 for name, rate in rates.items()}
        for part, stream in self._streams:
            stream.at(step)
            stream.profiled([found[task.task_id] for task in part.prompts])
        self._watch = Ending(self._rule, sys.maxsize)
        mean = sum(found.values()) / len(found)
        log.info("step %d: the reward no longer rises; %d prompts profiled anew", step + 1, len(found))
        return {"profiled_anew": {"prompts": len(found), "pass_rate_mean": mean, "after_steps": end.step}}


def _curricula(prompts: PromptSet, stream: Stream) -> list[tuple[PromptSet, CurriculumStream]]:
    if isinstance(stream, CurriculumStream):
        return [(prompts, stream)]
    if isinstance(stream, SharedStream):
        found = [(prompts.parts[name], own) for name, own in stream.streams.items()]
        return [(part, own) for part, own in found if isinstance(own, CurriculumStream)]
    return []
