"""The models that a stage can end with beside its last one: its other kept checkpoints, and merges with its parent.

<stage>/candidates/<model>/
    hf/               made when first needed, removed once the gate has decided
    selection.json    scores on the first prompts of the promised domains, where `select` is best
    scores.json       scores on all domains, where the gate looks for a model that keeps the promises

`adopt` makes one of them the stage's result. Everything is made from files that no adoption changes, so that a run that
was killed at any point comes to the same decision.
"""

import re
from dataclasses import replace
from pathlib import Path

from nemo_cascade.cascade.decision import LAST, Alternative, Decision
from nemo_cascade.cascade.gate import decide_reward_model
from nemo_cascade.cascade.levels import stage_gate
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import StageBase
from nemo_cascade.config.stages.reward_model import RewardModelStage
from nemo_cascade.evaluation.preference import PreferenceScores
from nemo_cascade.models.merge import Blend, merge_models
from nemo_cascade.stages.context import StageContext, export_checkpoint
from nemo_cascade.stages.reward_model import adopt_checkpoint
from nemo_cascade.storage.publish import copy_by_links, discard, publishing
from nemo_cascade.telemetry.metrics import read_metrics
from nemo_cascade.training.checkpoints.folders import verify

_CHECKPOINT = re.compile(r"step_\d{6,}")


class StageModels:
    """The models of a trained stage.

    Args:
        context: the stage's surroundings.
        stage: its configuration.
    """

    def __init__(self, context: StageContext, stage: StageBase) -> None:
        self.context, self.stage = context, stage

    def checkpoints(self) -> list[str]:
        """Return the models whose checkpoints are kept, newest first; the newest is the last model itself."""
        sound = []
        for path in sorted((self.context.folder / "checkpoints").glob("step_*"))[-2::-1]:
            if fault := verify(path):
                self.context.record("checkpoint_refused", stage=self.context.name, reason=f"{path.name}/{fault}")
            else:
                sound.append(path.name)
        return [LAST, *sound]

    def merges(self, ratios: list[float]) -> list[str]:
        """Return the names of the merges with these shares of the stage, in this order."""
        return [f"merge_{ratio:g}" for ratio in ratios]

    def folder(self, model: str) -> Path:
        """Return where a model and its scores lie."""
        return self.context.folder / "candidates" / model

    def keep(self, model: str) -> None:
        """Put the stage's present model aside under its own name, before another becomes the stage's."""
        target = self.folder(model) / "hf"
        if not target.exists():
            _link_folder(self.context.hf_folder, target)

    def hf(self, model: str, base: str = LAST) -> Path:
        """Return the weights of a model, made if they aren't there; merges are of the parent and the model `base`."""
        # In a resumed run the engines may not be up. They keep the folder that they start from, to start again from it
        # and for its config; these folders are removed, the parent's stays.
        self.context.roles.rollout(self.context.parent_hf)
        target = self.folder(model) / "hf"
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        if _CHECKPOINT.fullmatch(model):
            trained = self.stage.trained()
            assert trained is not None, "only what is trained has checkpoints"
            export_checkpoint(self.context, trained, self.context.folder / "checkpoints" / model, target)
        elif model == LAST:
            self.keep(LAST)
        else:
            share = float(model.removeprefix("merge_"))
            merge_models([self.context.parent_hf, self.hf(base)], Blend(share), target)
        return target

    def adopt(self, model: str) -> None:
        """Make a model the stage's result."""
        _link_folder(self.folder(model) / "hf", self.context.hf_folder)
        self.context.roles.forget()

    def discard(self) -> None:
        """Remove the weights of all that wasn't adopted; checkpoints and parent are there to make them again."""
        for folder in (self.context.folder / "candidates").glob("*/hf"):
            discard(folder)


def judge_reward_model(config: RunConfig, context: StageContext, stage: RewardModelStage) -> Decision:
    """Decide about a reward model; where it breaks its promise and `on_regression` asks for it, about its checkpoints.

    The best of the kept ones by the accuracy that metrics.jsonl has of it takes its place if that keeps the promise.
    """
    measured, first = context.folder / "preference.json", context.folder / "candidates" / LAST / "preference.json"
    last = PreferenceScores.load(first if first.is_file() else measured)
    decision = decide_reward_model(config, context.name, last, stage.min_accuracy)
    way = stage_gate(config, context.name).on_regression
    if decision.outcome != "rollback" or way not in ("recover", "checkpoint"):
        return decision
    best = _best_reward_checkpoint(context)
    if best is None:
        return replace(decision, reasons=(*decision.reasons, "no other checkpoint is kept"))
    checkpoint, accuracy = best
    other = decide_reward_model(config, context.name, replace(last, accuracy=accuracy), stage.min_accuracy)
    kept, reasons = other.outcome == "promote", (*decision.reasons, f"{checkpoint.name}: {other.reason}")
    tried = (Alternative(checkpoint.name, {"hold-out accuracy": accuracy}, accuracy, kept, other.reason),)
    if not kept:
        return replace(decision, reasons=reasons, alternatives=tried)
    first.parent.mkdir(parents=True, exist_ok=True)
    last.save(first)
    adopt_checkpoint(context, stage, checkpoint).save(measured)
    return replace(other, outcome="recover", model=checkpoint.name, reasons=reasons, alternatives=tried)


def _best_reward_checkpoint(context: StageContext) -> tuple[Path, float] | None:
    """Return the sound checkpoint before the last that was best on the hold-out pairs, and its accuracy there."""
    lines = {int(line["step"]): line for line in read_metrics(context.folder / "metrics.jsonl")}
    kept: dict[Path, float] = {}
    for path in sorted((context.folder / "checkpoints").glob("step_*"))[:-1]:
        accuracy = lines.get(int(path.name.removeprefix("step_")), {}).get("holdout_accuracy")
        if fault := verify(path):
            context.record("checkpoint_refused", stage=context.name, reason=f"{path.name}/{fault}")
        elif accuracy is not None:
            kept[path] = float(accuracy)
    return max(kept.items(), key=lambda item: item[1]) if kept else None


def _link_folder(source: Path, target: Path) -> None:
    """Give a finished folder of weights a second name, without copying them; what has that name is replaced."""
    with publishing(target) as scratch:
        copy_by_links(source, scratch)
