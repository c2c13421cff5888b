"""Preference optimisation against the model that a stage starts from: DPO, IPO, RPO (arXiv 2406.11704, section 3.3).

pairs are given, or a round makes them:
    the policy as it stands answers each prompt k times; verifiers and reward model judge
    the best response against the worst is the prompt's pair, unless they are tied or the best isn't good enough
log-probabilities of the start, once for all pairs: it is the reference
for each step:
    take global_batch_size pairs, chosen and rejected in one pack
    loss = sum over pairs of the form's loss on beta * (gap of log pi / reference) / number of pairs in the global batch
    one AdamW update

Several rounds are several stages: each starts from, samples from, and refers to what the one before it left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.preference import PreferenceStage
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.pairs import For, build_pairs
from nemo_cascade.data.prompts.prompt_sets import PromptSet, load_prompts
from nemo_cascade.data.responses import ResponseSource, ResponseStore
from nemo_cascade.errors import PausedError
from nemo_cascade.rewards.records import record_problem
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.round import Round
from nemo_cascade.stages.between.measuring import Measuring
from nemo_cascade.stages.context import StageCheckpoints, StageContext, finish
from nemo_cascade.stages.kind import Prepared
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.stages.pause import TimeLeft, job_end
from nemo_cascade.stages.profile import profiled_at_start
from nemo_cascade.stages.references import reference_logprobs
from nemo_cascade.stages.roles import stage_setup
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer


def prepare_preference(
    config: RunConfig, name: str, stage: PreferenceStage, start: Path, folder: Path
) -> Prepared[ResponseStore | PromptSet]:
    """Tokenise the pairs, or find them tokenised; or read and render the prompts."""
    if stage.data is not None:
        by: For = "policy_by_rewards" if stage.loss.reads_rewards else "policy"
        store = build_pairs(stage.data, stage.seq_length, start, folder, of=by)
        return Prepared(store, _steps(stage, len(store)), f"{len(store)} pairs", {"pairs": len(store)})
    assert stage.sampled is not None, "a stage has one source of pairs"
    sampled = stage.sampled
    room = config.rollout.max_model_len - sampled.sampling.max_tokens
    prompts = load_prompts(sampled.tasks, load_tokenizer(start), room, config.data_dir, record_problem)
    asked = sampled.prompts or len(prompts)
    prompts.first(asked)
    told = f"{asked} of {len(prompts)} prompts x {sampled.num_generations} responses, {len(prompts.bad)} bad rows"
    return Prepared(prompts, _steps(stage, asked), told)


def run_preference(context: StageContext, stage: PreferenceStage) -> None:
    """Train one preference stage to its end, from wherever its folder says it stands."""
    config, parent = context.config, context.parent_hf
    prepared = prepare_preference(config, context.name, stage, parent, context.data_folder)
    if isinstance(prepared.source, PromptSet):
        store, found = sample_round(context, stage, prepared.source)
    else:
        store, found = prepared.source, dict(prepared.stats)
    steps = _steps(stage, len(store))
    context.record("pairs_read", stage=context.name, **found)

    policy = context.roles.policy(stage_setup(config, stage, parent, steps))
    # It holds its start's weights now, before any checkpoint is loaded: it is the reference.
    reference = reference_logprobs(policy, parent, store, stage.seq_length, context.data_folder / "references")
    checkpoints = StageCheckpoints(context, stage, steps)
    same = {"data": store.folder.name, "reference": reference.parent.name}  # hashes of the pairs and of both
    done, _ = checkpoints.resume(policy, same=same)
    seed = config.seed + (0 if stage.data is None else stage.data.shuffle_seed)
    source = ResponseSource(store.folder, stage.global_batch_size, seed, stage.seq_length, reference=reference)

    timer = PhaseTimer()
    told = Progress(context.name, steps, done, config.logging, last_line=True)
    with context.metrics(done) as metrics, told as progress:
        measuring = Measuring(context, stage, steps, metrics.read())
        step = done
        while step < steps and measuring.reason_to_end is None:
            with timer.phase("train"):
                result = policy.train_step(source, step)
            step += 1
            measured = measuring.measured(step)
            metrics.log(step, {**optimizer_line([result]), **measured, **timer.report(tokens=result.tokens)})
            progress.advance(f"loss {result.loss:.3f}")
            end = measuring.reason_to_end
            checkpoints.save_if_due(policy, step, {"step": step, **same}, last=end is not None)
    if (end := measuring.reason_to_end) is not None:
        context.record("stage_ended", stage=context.name, step=step, **end)
    finish(context, policy)


def sample_round(
    context: StageContext, stage: PreferenceStage, prompts: PromptSet
) -> tuple[ResponseStore, dict[str, Any]]:
    """Return the pairs of a round, sampled as far as they aren't there, and what was found.

    Raises:
        PausedError: a pause was asked for, or the job's time doesn't hold two more batches; whole batches are kept.
    """
    config, roles, sampled = context.config, context.roles, stage.sampled
    assert sampled is not None, "a round has rules"
    prompts = profiled_at_start(config, roles, sampled, prompts, context.parent_hf, context.version(0) - 1)
    this = Round(context.folder / "round", context.name, config.seed, sampled, prompts)
    if missing := this.missing():
        engines = roles.engines_with(context.parent_hf, context.version(0))
        model = context.reward_model(sampled.reward_model)
        judges = roles.judges(context.parent_hf, sampled.num_generations, model)
        for task in sampled.tasks.values():
            judges.self_test([task.reward.kind], task.reward.options)
        by = Answerers(
            engines, judges, load_tokenizer(context.parent_hf), config, roles.environments(context.parent_hf)
        )
        left, timer = TimeLeft(job_end()), PhaseTimer()
        total = this.num_prompts * sampled.num_generations
        done = (this.batches - len(missing)) * sampled.prompts_per_batch * sampled.num_generations
        with Progress(f"{context.name}: sampling", total, min(done, total), config.logging) as progress:
            for batch in missing:
                left.restart()
                this.sample(batch, by, timer, lambda ended: progress.advance("", units=ended))
                left.step_done()
                if batch != missing[-1] and (reason := left.reason_to_pause()):
                    raise PausedError(f"{context.name}, batch {batch + 1} of {this.batches}", reason)
    return this.pairs()


def _steps(stage: PreferenceStage, pairs: int) -> int:
    steps = -(-stage.epochs * pairs // stage.global_batch_size)
    return min(steps, stage.max_steps or steps)
