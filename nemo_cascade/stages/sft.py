"""Supervised fine-tuning on packed conversations (arXiv 2512.13607, section 3).

pack the conversations to seq_length, loss on assistant tokens only
for each step:
    take global_batch_size packs                  # a pure function of the step: resuming needs no reader state
    loss = sum of -log p over trained tokens / their count in the whole global batch
    one AdamW update
"""

from __future__ import annotations

from nemo_cascade.config.stage import SftStage
from nemo_cascade.data.batches import PackedSource
from nemo_cascade.data.build import build_packed_store
from nemo_cascade.stages.context import StageCheckpoints, StageContext, finish
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.stages.roles import stage_setup
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.training.schedule import check_warm_up


def run_sft(context: StageContext, stage: SftStage) -> None:
    """Train one SFT stage to its end, from wherever its folder says it stands."""
    multiple = context.config.parallel.document_multiple
    store = build_packed_store(stage, context.parent_hf, context.data_folder, document_multiple=multiple)
    context.record("data_packed", stage=context.name, **store.summary)
    source = PackedSource(store.folder, stage.global_batch_size, context.config.seed + stage.data.shuffle_seed)
    steps = min(source.steps(stage.epochs), stage.max_steps or source.steps(stage.epochs))
    check_warm_up(stage.optimizer, steps, context.name)

    policy = context.roles.policy(stage_setup(context.config, stage, context.parent_hf, steps))
    checkpoints = StageCheckpoints(context, stage, steps)
    data = store.folder.name  # a hash of samples and packing
    done, _ = checkpoints.resume(policy, same={"data": data})

    timer = PhaseTimer()
    told = Progress(context.name, steps, done, context.config.logging, last_line=True)
    with context.metrics(done) as metrics, told as progress:
        for step in range(done, steps):
            with timer.phase("train"):
                result = policy.train_step(source, step)
            metrics.log(step + 1, {**optimizer_line([result]), **timer.report(tokens=result.tokens)})
            progress.advance(f"loss {result.loss:.3f}")
            checkpoints.save_if_due(policy, step + 1, {"step": step + 1, "data": data})
    finish(context, policy)
