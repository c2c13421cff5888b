"""A model made of others by their weights (arXiv 2508.14444: the last step of Nemotron Nano 2).

for each ratio:
    merge the models, tensor by tensor
    score the merge on the first prompts of the promised domains      (where there are several ratios)
the best one is the stage's; the gate judges it on the whole suites, against the parent

<stage>/sweep/ratio_0.5/
    hf/               removed once the best one is chosen
    selection.json
"""

import logging
from dataclasses import replace
from pathlib import Path

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.merge import MergeStage
from nemo_cascade.evaluation.scores import Scores, merit
from nemo_cascade.models.merge import Blend, merge_models
from nemo_cascade.stages.context import StageContext, evaluation_version
from nemo_cascade.stages.evaluate import evaluate, scorable_suites
from nemo_cascade.stages.kind import Prepared
from nemo_cascade.stages.pause import pause_if_asked
from nemo_cascade.storage.publish import copy_by_links, discard, publishing

log = logging.getLogger(__name__)


def prepare_merge(config: RunConfig, name: str, stage: MergeStage, start: Path, folder: Path) -> Prepared[None]:
    """Tell what will be merged; its models aren't there yet."""
    return Prepared(None, 0, f"{' and '.join(stage.of)}, {len(stage.ratios)} ratio(s)")


def run_merge(context: StageContext, stage: MergeStage) -> None:
    """Make the merges, score them where there are several, and export the best one."""
    best = stage.ratios[0] if len(stage.ratios) == 1 else _best(context, stage)
    with publishing(context.hf_folder) as scratch:
        copy_by_links(_made(context, stage, best), scratch)
    context.record("merged", stage=context.name, of=stage.of, method=stage.method, ratio=best)
    for folder in (context.folder / "sweep").glob("*/hf"):
        discard(folder)


def _best(context: StageContext, stage: MergeStage) -> float:
    """Return the ratio of the best merge, by its mean score.

    It is over the domains that are promised to improve, or where none is, over those that are held, or all.
    """
    config, roles = context.config, context.roles
    # Engines keep the folder that they start from; the merges' are removed, the parent's stays.
    roles.rollout(context.parent_hf)
    suites = scorable_suites(config, context.reward_models)
    named = (stage.promise.improve, stage.promise.hold, list(suites))
    promised = next(found for domains in named if (found := [domain for domain in domains if domain in suites]))
    few = {d: replace(suites[d], num_prompts=min(stage.select_prompts, suites[d].num_prompts)) for d in promised}
    merits: dict[float, float] = {}
    for ratio in stage.ratios:
        target = _folder(context, ratio) / "selection.json"
        if not target.is_file():
            hf, label = _made(context, stage, ratio), f"{context.name}, ratio {ratio:g}"
            version = evaluation_version(context.index)
            evaluate(config, roles, hf, version, label, few, context.reward_models).save(target)
            pause_if_asked(label)
        scored = {name: entry["score"] or 0.0 for name, entry in Scores.load(target).summary().items()}
        merits[ratio] = merit(scored, promised)
    best = max(merits, key=lambda ratio: merits[ratio])
    told = {f"{ratio:g}": value for ratio, value in merits.items()}
    context.record("merges_scored", stage=context.name, merits=told, best=best, prompts=stage.select_prompts)
    log.info("%s: the best of %d ratios is %g", context.name, len(merits), best)
    return best


def _folder(context: StageContext, ratio: float) -> Path:
    return context.folder / "sweep" / f"ratio_{ratio:g}"


def _made(context: StageContext, stage: MergeStage, ratio: float) -> Path:
    """Return the merge at a ratio, made unless it is there."""
    target = _folder(context, ratio) / "hf"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        models = [context.models.get(name, Path(name)) for name in stage.of]
        base = None if stage.base is None else context.models.get(stage.base, Path(stage.base))
        merge_models(models, Blend(ratio, stage.method, stage.density), target, base)
    return target
