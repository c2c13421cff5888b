"""The reward model: on pairs as Nemotron-Cascade trains it (arXiv 2512.13607, section 4.2.2), or on rated attributes
(arXiv 2406.11704, section 3.1).

start from the policy's weights (or a model of its own), a linear head on the last token's hidden state
for each step:
    take global_batch_size pairs of responses to one prompt, chosen and rejected in one pack
    loss = sum of -log sigmoid(r(chosen) - r(rejected)) / number of pairs in the whole global batch
    or: take as many rated replies; loss = sum of (p_k - y_k)^2 / number of ratings in the whole global batch
    one AdamW update
measure on hold-out pairs: accuracy, also by the labels' gap, calibration, length bias

It stands beside the policy's line: the next stage starts from the same weights as this one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.reward_model import RewardModelStage
from nemo_cascade.data.pairs import For, build_pair_stores
from nemo_cascade.data.ratings import build_rated_stores
from nemo_cascade.data.responses import HoldoutSource, ResponseSource, ResponseStore
from nemo_cascade.errors import DataError
from nemo_cascade.evaluation.preference import PreferenceScores, correlation, preference_scores
from nemo_cascade.evaluation.statistics import Float64
from nemo_cascade.losses.reward_model import BradleyTerry, Regression
from nemo_cascade.losses.units import RATING
from nemo_cascade.stages.context import StageCheckpoints, StageContext
from nemo_cascade.stages.kind import Prepared
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.stages.roles import stage_setup
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.training.setup import TrainerSetup
from nemo_cascade.types import Int64


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a reward model is measured on.

    Attributes:
        source: the held-out documents.
        weights: [K] of its outputs in the score.
        pairs: [n, 2] documents, the preferred one first.
        gaps: [n], how far they are apart by the labels; None where these don't say.
    """

    source: HoldoutSource
    weights: Float64
    pairs: Int64
    gaps: Float64 | None


def prepare_reward_model(
    config: RunConfig, name: str, stage: RewardModelStage, start: Path, folder: Path
) -> Prepared[tuple[ResponseSource, HeldOut]]:
    """Tokenise what is trained on and what is held out, or find it tokenised."""
    tokenizer, form = _start(stage, start), stage.loss.form
    data, length = stage.data, stage.seq_length
    if form == "regression":
        names, of = list(stage.loss.attributes), "replies"
        train, holdout = build_rated_stores(data, names, length, tokenizer, folder)
    else:
        by: For = "scores" if form == "plain" else "scores_by_strength"
        of = "pairs"
        train, holdout = build_pair_stores(data, length, tokenizer, folder, of=by)
    seed, batch = config.seed + data.shuffle_seed, stage.global_batch_size
    source = ResponseSource(train.folder, batch, seed, length, share_prompts=stage.share_prompts)
    steps = min(source.steps(stage.epochs), stage.max_steps or source.steps(stage.epochs))
    counts = {"train": len(train), "holdout": len(holdout)}
    held_out = _held_out(stage, holdout, HoldoutSource(holdout.folder, batch, 0, length))
    return Prepared((source, held_out), steps, f"{counts['train']} {of}, {counts['holdout']} held out", counts)


def _held_out(stage: RewardModelStage, store: ResponseStore, source: HoldoutSource) -> HeldOut:
    if stage.loss.form != "regression":
        pairs = np.arange(2 * len(store)).reshape(-1, 2)
        gaps = store.values[::2, 0].astype(np.float64) if store.stats["values"] else None
        return HeldOut(source, np.ones(1), pairs, gaps)
    weights = np.array(list(stage.loss.attributes.values()))
    counted = weights != 0
    known = store.values[:, counted].astype(np.float64) @ weights[counted]  # NaN where a rating that counts is missing
    found, gaps_of = [], []
    for prompt in np.unique(store.prompts):
        replies = np.flatnonzero((store.prompts == prompt) & ~np.isnan(known))
        for left, right in ((i, j) for i in replies for j in replies if known[i] > known[j]):
            found.append((left, right))
            gaps_of.append(known[left] - known[right])
    if not found:
        raise DataError(
            "no two held-out replies to one prompt are rated differently, so no accuracy can be measured",
            value=stage.data.holdout_path,
            mend="hold out several replies to each prompt",
        )
    return HeldOut(source, weights, np.array(found), np.array(gaps_of))


def run_reward_model(context: StageContext, stage: RewardModelStage) -> None:
    """Train one reward model to its end, from wherever its folder says it stands."""
    config = context.config
    prepared = prepare_reward_model(config, context.name, stage, context.parent_hf, context.data_folder)
    context.record("pairs_read", stage=context.name, **prepared.stats)
    (source, held_out), steps = prepared.source, prepared.steps

    model = context.roles.policy(_setup(context, stage, steps))
    checkpoints = StageCheckpoints(context, stage, steps)
    data = Path(source.folder).name  # a hash of the pairs
    done, _ = checkpoints.resume(model, same={"data": data})

    timer = PhaseTimer()
    told = Progress(context.name, steps, done, config.logging, last_line=True)
    with context.metrics(done) as metrics, told as progress:
        for step in range(done, steps):
            with timer.phase("train"):
                result = model.train_step(source, step)
            line = {**optimizer_line([result]), "tokens": int(result.metrics["total_tokens"])}
            if checkpoints.due(step + 1):
                scores = measure(model, held_out)
                line |= {"holdout_accuracy": scores.accuracy, "holdout_loss": scores.loss}
            metrics.log(step + 1, {**line, **timer.report(tokens=line["tokens"])})
            told_metric = "error" if "error" in result.metrics else "accuracy"
            progress.advance(f"{told_metric} {result.metrics[told_metric]:.3f}")
            checkpoints.save_if_due(model, step + 1, {"step": step + 1, "data": data})
    measure(model, held_out).save(context.folder / "preference.json")
    model.export_hf(str(context.hf_folder))


def adopt_checkpoint(context: StageContext, stage: RewardModelStage, checkpoint: Path) -> PreferenceScores:
    """Make a kept checkpoint the stage's result, and return what it is worth on the hold-out pairs."""
    prepared = prepare_reward_model(context.config, context.name, stage, context.parent_hf, context.data_folder)
    _, held_out = prepared.source
    steps = int(checkpoint.name.removeprefix("step_"))
    model = context.roles.policy(_setup(context, stage, steps))
    model.load_checkpoint(str(checkpoint))
    scores = measure(model, held_out)
    model.export_hf(str(context.hf_folder))
    return scores


def _setup(context: StageContext, stage: RewardModelStage, steps: int) -> TrainerSetup:
    loss, start = stage.loss, _start(stage, context.parent_hf)
    objective = Regression(tuple(loss.attributes.items())) if loss.form == "regression" else BradleyTerry(loss.form)
    return stage_setup(context.config, stage, start, steps, objective)


def _start(stage: RewardModelStage, parent: Path) -> Path:
    return Path(stage.model_path) if stage.model_path is not None else parent


def measure(model: TrainerGroup, held_out: HeldOut) -> PreferenceScores:
    """Score every hold-out document, once, and judge the model by the pairs of them."""
    source = held_out.source
    steps = range(source.steps(1))
    outputs_DK = np.concatenate([source.by_document(step, model.outputs(source, step)) for step in steps])
    outputs_DK = outputs_DK.astype(np.float64)
    scores_D = outputs_DK @ held_out.weights
    chosen_n, rejected_n = held_out.pairs.T
    store = source.store
    length_D = np.diff(store.offsets)
    names, rated_DK = store.stats["values"], np.asarray(store.values, np.float64)
    errors: dict[str, float] = {}
    agreement: dict[str, float | None] = {}
    if store.stats["per_item"] == 1:
        for name, told_D, rated_D in zip(names, outputs_DK.T, rated_DK.T, strict=True):
            errors[name.removeprefix(RATING)] = float(np.nanmean((told_D - rated_D) ** 2))
            agreement[name.removeprefix(RATING)] = correlation(told_D, rated_D)
    margin_n = scores_D[chosen_n] - scores_D[rejected_n]
    longer_n = length_D[chosen_n] - length_D[rejected_n]
    return preference_scores(margin_n, held_out.gaps, longer_n, errors, agreement)
