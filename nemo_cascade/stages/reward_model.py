"""The reward model as Nemotron-Cascade trains it (arXiv 2512.13607, section 4.2.2).

start from the policy's weights (or a model of its own), a linear head on the last token's hidden state
for each step:
    take global_batch_size pairs of responses to one prompt, chosen and rejected in one pack
    loss = sum of -log sigmoid(r(chosen) - r(rejected)) / number of pairs in the whole global batch
    one AdamW update
measure on hold-out pairs: accuracy, calibration

It stands beside the policy's line: the next stage starts from the same weights as this one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.reward_model import RewardModelStage
from nemo_cascade.data.pairs import HoldoutSource, PairSource, build_pair_stores
from nemo_cascade.evaluation.preference import PreferenceScores, preference_scores
from nemo_cascade.stages.context import StageCheckpoints, StageContext
from nemo_cascade.stages.kind import Prepared
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.stages.roles import stage_setup
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer


def prepare_reward_model(
    config: RunConfig, name: str, stage: RewardModelStage, start: Path, folder: Path
) -> Prepared[tuple[PairSource, HoldoutSource]]:
    """Tokenise the pairs, or find them tokenised: those to train on, and those held out."""
    tokenizer, multiple = _start(stage, start), stage.layout(config).layout.pad_documents_to
    train, holdout = build_pair_stores(stage.data, stage.seq_length, tokenizer, folder, document_multiple=multiple)
    source = PairSource(train.folder, stage.global_batch_size, config.seed + stage.data.shuffle_seed)
    steps = min(source.steps(stage.epochs), stage.max_steps or source.steps(stage.epochs))
    counts = {"train": train.stats["pairs"], "holdout": holdout.stats["pairs"]}
    held_out = HoldoutSource(holdout.folder, stage.global_batch_size, seed=0)
    return Prepared((source, held_out), steps, f"{counts['train']} pairs, {counts['holdout']} held out", counts)


def run_reward_model(context: StageContext, stage: RewardModelStage) -> None:
    """Train one reward model to its end, from wherever its folder says it stands."""
    config = context.config
    prepared = prepare_reward_model(config, context.name, stage, context.parent_hf, context.data_folder)
    context.record("pairs_read", stage=context.name, **prepared.stats)
    (source, held_out), steps = prepared.source, prepared.steps

    model = context.roles.policy(stage_setup(config, stage, _start(stage, context.parent_hf), steps))
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
            progress.advance(f"accuracy {result.metrics['accuracy']:.3f}")
            checkpoints.save_if_due(model, step + 1, {"step": step + 1, "data": data})
    measure(model, held_out).save(context.folder / "preference.json")
    model.export_hf(str(context.hf_folder))


def adopt_checkpoint(context: StageContext, stage: RewardModelStage, checkpoint: Path) -> PreferenceScores:
    """Make a kept checkpoint the stage's result, and return what it is worth on the hold-out pairs."""
    prepared = prepare_reward_model(context.config, context.name, stage, context.parent_hf, context.data_folder)
    _, held_out = prepared.source
    steps = int(checkpoint.name.removeprefix("step_"))
    model = context.roles.policy(stage_setup(context.config, stage, _start(stage, context.parent_hf), steps))
    model.load_checkpoint(str(checkpoint))
    scores = measure(model, held_out)
    model.export_hf(str(context.hf_folder))
    return scores


def _start(stage: RewardModelStage, parent: Path) -> Path:
    return Path(stage.model_path) if stage.model_path is not None else parent


def measure(model: TrainerGroup, held_out: HoldoutSource) -> PreferenceScores:
    """Score every hold-out pair, once."""
    scores = [
        micro_batch
        for step in range(held_out.steps(1))
        for rank in model.scores(held_out, step)
        for micro_batch in rank
    ]
    chosen_n, rejected_n = np.concatenate(scores).astype(np.float64).reshape(-1, 2).T
    return preference_scores(chosen_n - rejected_n)
