"""The models that a stage can end with beside its last one: its other kept checkpoints, and merges with its parent.

<stage>/candidates/<model>/
    hf/               made when first needed, removed once the gate has decided
    selection.json    scores on the first prompts of the promised domains, where `select` is best
    scores.json       scores on all domains, where the gate looks for a model that keeps the promises

`adopt` makes one of them the stage's result. Everything is made from files that no adoption changes, so that a run that
was killed at any point comes to the same decision.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from nemo_cascade.cascade.decision import LAST
from nemo_cascade.config.stage import GrpoStage, SftStage
from nemo_cascade.models.hf_folder import publish_folder
from nemo_cascade.models.merge import merge_models
from nemo_cascade.stages.context import StageContext, export_checkpoint
from nemo_cascade.training.checkpoint import verify

_CHECKPOINT = re.compile(r"step_\d{6,}")


class StageModels:
    """The models of a trained stage.

    Args:
        context: the stage's surroundings.
        stage: its configuration.
    """

    def __init__(self, context: StageContext, stage: SftStage | GrpoStage) -> None:
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
        target = self.folder(model) / "hf"
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        if _CHECKPOINT.fullmatch(model):
            export_checkpoint(self.context, self.stage, self.context.folder / "checkpoints" / model, target)
        elif model == LAST:
            self.keep(LAST)
        else:
            share = float(model.removeprefix("merge_"))
            merge_models(self.context.parent_hf, self.hf(base), share, target)
        return target

    def adopt(self, model: str) -> None:
        """Make a model the stage's result."""
        _link_folder(self.folder(model) / "hf", self.context.hf_folder)
        self.context.roles.forget()

    def discard(self) -> None:
        """Remove the weights of all that wasn't adopted; checkpoints and parent are there to make them again."""
        for folder in (self.context.folder / "candidates").glob("*/hf"):
            shutil.rmtree(folder)


def _link_folder(source: Path, target: Path) -> None:
    """Give a finished folder of weights a second name, without copying them; what has that name is replaced."""
    scratch = target.parent / f".{target.name}.linking"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, scratch, copy_function=os.link)
    publish_folder(scratch, target)
