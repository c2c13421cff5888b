"""Scores between the steps of a stage: the first prompts of suites, answered by the policy as it is.

every so many steps: hand the weights to the engines, answer and judge, write down; end where the mean rises no more
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nemo_cascade.config.stages.base import TrainedStage
from nemo_cascade.stages.context import StageContext
from nemo_cascade.stages.evaluate import score_suites
from nemo_cascade.stages.hand_over import hand_over

MEAN = "measured_mean"


class Measuring:
    """A stage's scores by step; `<stage>/measured/step_000050.json` has them by prompt and sample.

    Args:
        context: the stage's surroundings.
        stage: says what is measured, how often, and when that ends the stage.
        steps: of the stage.
        earlier: lines of metrics.jsonl of the steps that are done.
    """

    def __init__(
        self, context: StageContext, stage: TrainedStage, steps: int, earlier: Sequence[Mapping[str, Any]]
    ) -> None:
        self._context, self._steps, self.config = context, steps, stage.measures()
        self._means = [float(line[MEAN]) for line in earlier if line.get(MEAN) is not None]
        self._proven = False

    def due(self, steps_done: int) -> bool:
        """Tell whether the suites are scored behind this step; the last one is left to those behind the stage."""
        rules = self.config
        return rules is not None and bool(rules.suites) and not steps_done % rules.every and steps_done != self._steps

    def measured(self, steps_done: int) -> dict[str, float | None]:
        """Return the scores for a step's line, by domain and their mean; empty where none are due."""
        rules, context = self.config, self._context
        if rules is None or not self.due(steps_done):
            return {}
        every = context.config.evaluation.suites
        suites = {
            domain: replace(every[domain], num_prompts=min(rules.num_prompts, every[domain].num_prompts))
            for domain in rules.suites
        }
        engines = context.roles.rollout(context.parent_hf)
        hand_over(context, steps_done, first=not self._proven)
        self._proven = True
        label = f"{context.name} step {steps_done}"
        parts = (context.config, context.roles, engines, context.parent_hf)
        scores = score_suites(*parts, label, suites, context.reward_models)
        target = context.folder / "measured" / f"step_{steps_done:06d}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        scores.save(target)
        found = {domain: line["score"] for domain, line in scores.summary().items()}
        known = [float(score) for score in found.values() if score is not None]
        mean = sum(known) / len(known) if known else None
        if mean is not None:
            self._means.append(mean)
        return {**{f"measured_{domain}": score for domain, score in found.items()}, MEAN: mean}

    @property
    def reason_to_end(self) -> dict[str, Any] | None:
        """What the ledger says of a stage that ends now; None where it goes on."""
        patience = None if self.config is None else self.config.patience
        if patience is None or len(self._means) <= patience:
            return None
        best, newest = max(self._means[:-patience]), max(self._means[-patience:])
        return None if newest > best else {"rule": MEAN, "value": newest, "limit": best}
