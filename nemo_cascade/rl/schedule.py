"""What changes inside a stage: temperature, group size and response length by step, and a temperature that is steered.

    from each entry's step on, its values hold                      arXiv 2505.16400: G 8 -> 16, T 0.6 -> 1.0
    T <- T + gain (target - H) after each step, within bounds       arXiv 2506.13284: H near 0.3

H is the policy's entropy per sampled token at the temperature that it was sampled with, in nats. The paper picks T by
hand so that H stays there; the rule is ours.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_cascade.config.stages.grpo import GrpoStage

_DIGITS = 4


class Schedule:
    """A stage's values, step by step.

    Args:
        stage: as configured.
        state: what `state` returned earlier; None starts anew.
    """

    def __init__(self, stage: GrpoStage, state: Mapping[str, Any] | None = None) -> None:
        self._stage = stage
        self._steered: float | None = (state or {}).get("temperature")

    def state(self) -> dict[str, Any]:
        """Return what it goes on from, JSON-like."""
        return {"temperature": self._steered}

    def at(self, step: int) -> GrpoStage:
        """Return the stage with the values of a step, counted from 0."""
        stage = self._stage
        for entry in stage.schedule:
            if entry.from_step <= step:
                sampling = stage.sampling
                if entry.temperature is not None:
                    sampling = replace(sampling, temperature=entry.temperature)
                if entry.max_tokens is not None:
                    sampling = replace(sampling, max_tokens=entry.max_tokens)
                groups = entry.num_generations or stage.num_generations
                stage = replace(stage, sampling=sampling, num_generations=groups)
        if self._steered is not None:
            stage = replace(stage, sampling=replace(stage.sampling, temperature=self._steered))
        return stage

    def see(self, step: int, entropy: float | None) -> None:
        """Take note of a step's entropy; None where none was measured."""
        rule = self._stage.entropy_target
        if rule.nats is None or entropy is None:
            return
        moved = self.at(step).sampling.temperature + rule.gain * (rule.nats - entropy)
        self._steered = round(min(rule.highest, max(rule.lowest, moved)), _DIGITS)

    def metrics(self, now: GrpoStage) -> dict[str, Any]:
        """Return what a step's log line says of the values that it was drawn with, where they change."""
        if not self._stage.schedule and self._stage.entropy_target.nats is None:
            return {}
        length = {"num_generations": now.num_generations, "max_tokens": now.sampling.max_tokens}
        return {"temperature": now.sampling.temperature, **length}
