"""Supervised fine-tuning on packed conversations (arXiv 2512.13607, section 3), by labels or by a teacher's logits.

pack the conversations to seq_length, loss on assistant tokens only
for each step:
    take global_batch_size packs                  # a pure function of the step: resuming needs no reader state
    loss = sum over trained tokens of -log p, or of KL(teacher || policy) / their count in the whole global batch
    one AdamW update
    measure the validation loss, where rows are held out for it, and suites; end where they get no better
"""

from pathlib import Path

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.sft import SftStage
from nemo_cascade.data.batches import PackedSource
from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.losses.cross_entropy import SftLoss
from nemo_cascade.losses.distillation import LogitDistillation
from nemo_cascade.losses.objective import Objective
from nemo_cascade.stages.between.measuring import Measuring
from nemo_cascade.stages.between.validation import Validation, validation_source
from nemo_cascade.stages.context import StageCheckpoints, StageContext, finish
from nemo_cascade.stages.kind import Prepared
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.stages.roles import stage_setup
from nemo_cascade.stages.teachers import logit_teacher, outside_teachers
from nemo_cascade.storage.hashes import hash_folder
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer


def prepare_sft(config: RunConfig, name: str, stage: SftStage, start: Path, folder: Path) -> Prepared[PackedSource]:
    """Pack the conversations, or find them packed, and look at a teacher that is there."""
    if stage.teacher is not None and outside_teachers(stage, config.stages):
        logit_teacher(stage.teacher, {}, start, config.model.family)
    store = build_packed_store(stage, start, folder, logging_config=config.logging)
    source = PackedSource(store.folder, stage.global_batch_size, config.seed + stage.data.shuffle_seed)
    steps = min(source.steps(stage.epochs), stage.max_steps or source.steps(stage.epochs))
    validation_source(config, stage, start, folder)
    told = f"{len(store)} packs of {stage.seq_length} tokens, fill {store.stats['fill']:.4f}"
    return Prepared(source, steps, told, store.summary, store.folder)


def run_sft(context: StageContext, stage: SftStage) -> None:
    """Train one SFT stage to its end, from wherever its folder says it stands."""
    prepared = prepare_sft(context.config, context.name, stage, context.parent_hf, context.data_folder)
    context.record("data_packed", stage=context.name, **prepared.stats)
    source, steps = prepared.source, prepared.steps

    teacher, parent = None, context.parent_hf
    same = {"data": Path(source.folder).name}  # a hash of samples and packing
    if stage.teacher is not None:
        teacher = logit_teacher(stage.teacher, context.models, parent, context.config.model.family)
        same["teacher"] = hash_folder(teacher)
    objective: Objective = SftLoss()
    if stage.teacher is not None and teacher is not None:
        objective = LogitDistillation(stage.teacher, str(teacher))
    policy = context.roles.policy(stage_setup(context.config, stage, parent, steps, objective))
    checkpoints = StageCheckpoints(context, stage, steps)
    done, _ = checkpoints.resume(policy, same=same)

    held_out = validation_source(context.config, stage, context.parent_hf, context.data_folder)

    timer = PhaseTimer()
    told = Progress(context.name, steps, done, context.config.logging, last_line=True)
    with context.metrics(done) as metrics, told as progress:
        replicas = context.config.parallel.data_parallel_size
        validation = (
            None
            if held_out is None or stage.validation is None
            else Validation(stage.validation, held_out, replicas, steps, metrics.read())
        )
        measuring = Measuring(context, stage, steps, metrics.read())
        end = measuring.reason_to_end if validation is None else validation.reason_to_end or measuring.reason_to_end
        step = done
        while step < steps and end is None:
            with timer.phase("train"):
                result = policy.train_step(source, step)
            step += 1
            measured: dict[str, float | None] = {}
            if validation is not None:
                with timer.phase("logprob"):
                    measured = validation.measured(policy, step)
                end = validation.reason_to_end
            measured |= measuring.measured(step)
            end = end or measuring.reason_to_end
            metrics.log(step, {**optimizer_line([result]), **measured, **timer.report(tokens=result.tokens)})
            progress.advance(f"loss {result.loss:.3f}")
            checkpoints.save_if_due(policy, step, {"step": step, **same}, last=end is not None)
    if end is not None:
        context.record("stage_ended", stage=context.name, step=step, **end)
    finish(context, policy)
