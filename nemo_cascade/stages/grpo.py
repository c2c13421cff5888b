"""GRPO as Nemotron-Cascade trains it (arXiv 2512.13607, section 4.1.2): strictly on-policy by default.

    for each step:
        hand the policy's weights to the engines          # version = step; equality proven after the first
        draw B prompts, G rollouts each; verify each as it finishes    # max_staleness k: those of step + k, meanwhile;
                                                          # or without a break (generation.mode=continuous)
        A_i = (r_i - mean(r_1..r_G)) / std(r_1..r_G)      # the same on every token of rollout i
        loss = - sum over all tokens of the batch of A_i * ratio / number of tokens
        one AdamW update (no KL, no entropy term)
        stop where a rule ends the stage                  # truncation rate, plateau; or its last step
    after each epoch: leave out prompts that all their rollouts solved, or none (where asked for)

The switches that other recipes need (leave-one-out, clip-higher, importance correction, KL, sequence-level loss,
dynamic sampling, rules for truncated rollouts) are fields of GrpoStage.
"""

from dataclasses import asdict
from pathlib import Path

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.prompt_sets import PromptSet, load_prompts
from nemo_cascade.data.prompts.streams import open_stream
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.rewards.records import record_problem
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.collect import Collector
from nemo_cascade.rl.drawing.ahead import Ahead
from nemo_cascade.rl.drawing.continuous import Continuous
from nemo_cascade.rl.ending import Ending
from nemo_cascade.rl.profiling import Profiling
from nemo_cascade.rl.rollout_log import write_rollouts
from nemo_cascade.rl.schedule import Schedule
from nemo_cascade.rl.updates import policy_updates
from nemo_cascade.stages.between.measuring import Measuring
from nemo_cascade.stages.context import StageCheckpoints, StageContext, finish
from nemo_cascade.stages.hand_over import hand_over
from nemo_cascade.stages.kind import Prepared
from nemo_cascade.stages.log_lines import finite_or_none, optimizer_line
from nemo_cascade.stages.profile import profiled_at_start
from nemo_cascade.stages.roles import stage_setup
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer


def prepare_grpo(config: RunConfig, name: str, stage: GrpoStage, start: Path, folder: Path) -> Prepared[PromptSet]:
    """Read and render the prompts; nothing is kept in `folder`."""
    room = config.rollout.max_model_len - stage.longest_response
    prompts = load_prompts(stage.tasks, load_tokenizer(start), room, config.data_dir, record_problem)
    prompts.first(stage.prompts_per_step)
    told = (
        f"{len(prompts)} prompts, {prompts.duplicates} of them duplicates, {prompts.left_out} left out for their "
        f"length, {len(prompts.bad)} bad rows"
    )
    return Prepared(prompts, stage.steps * stage.updates_per_batch, told)


def run_grpo(context: StageContext, stage: GrpoStage) -> None:
    """Train one GRPO stage to its end, from wherever its folder says it stands."""
    config, roles = context.config, context.roles
    tokenizer = load_tokenizer(context.parent_hf)
    prompts = prepare_grpo(config, context.name, stage, context.parent_hf, context.data_folder).source
    prompts = profiled_at_start(config, roles, stage, prompts, context.parent_hf, context.version(0) - 1)
    objective = PolicyLoss.from_start(stage.trained_loss, stage.sampling.temperature, str(context.parent_hf))
    total = stage.steps * stage.updates_per_batch
    policy = roles.policy(stage_setup(config, stage, context.parent_hf, total, objective))
    rollout = roles.rollout(context.parent_hf)
    judges = roles.judges(context.parent_hf, stage.num_generations, context.reward_model(stage.reward_model))
    for task in stage.tasks.values():
        judges.self_test([task.reward.kind], task.reward.options)
    checkpoints = StageCheckpoints(context, stage, stage.steps)
    done, state = checkpoints.resume(policy, needs=("stream", "history"))
    stream = open_stream(prompts, stage, config.seed, state.get("stream"))
    by = Answerers(rollout, judges, tokenizer, config, roles.environments(context.parent_hf))
    collector = Collector(stream, by, stage)
    ending = Ending(stage.end_when, stage.steps, state.get("history", []))
    schedule = Schedule(stage, state.get("schedule"))
    profiling = Profiling(stage, prompts, stream, by, state.get("profiling"))

    timer = PhaseTimer()
    drawing = Continuous if stage.generation.mode == "continuous" else Ahead
    ahead = drawing(collector, stage, context.version, roles.restore, checkpoints.resumed_from, done)
    told = Progress(context.name, stage.steps, done, config.logging, last_line=True)
    with context.metrics(done) as metrics, told as progress, ahead:
        early, step, measuring = None, done, Measuring(context, stage, stage.steps, metrics.read())
        while (end := ending.reached) is None and (early := measuring.reason_to_end) is None:
            with timer.phase("generate"):
                ahead.settle(step)
            with timer.phase("sync"):
                hand_over(context, step, first=step == done)
            profiled = profiling.if_due(step, timer)
            ahead.draw(step, schedule.at, timer)
            with timer.phase("generate"):
                drawn = ahead.take(step)
            batch, now = drawn.batch, drawn.stage
            policy.score_at(now.sampling.temperature)
            updates = policy_updates(policy, batch, now, config, step, timer)
            write_rollouts(context.folder, step + 1, batch, tokenizer, stage.rollouts_to_keep, updates.trainer)
            trained = {"updates_empty": updates.empty, "rollouts_filtered": updates.filtered, **profiled}
            trained |= {name: finite_or_none(value) for name, value in updates.unreplayed.items()}
            line = {**drawn.said, **schedule.metrics(now), **optimizer_line(updates.results), **trained}
            if measuring.due(step + 1):
                ahead.lend(step + 1)
                line |= measuring.measured(step + 1)
            metrics.log(step + 1, {**line, **timer.report(tokens=batch.num_tokens)})
            progress.advance(f"reward {batch.reward_mean:.3f}")
            schedule.see(step, line.get("entropy"))
            step += 1
            ending.see(batch.reward_mean, batch.truncation_rate)
            profiling.see(batch.reward_mean)
            if checkpoints.wanted(step, last=ending.reached is not None or measuring.reason_to_end is not None):
                ahead.settle(step)
                history = {"history": ending.history, "profiling": profiling.state(), "schedule": schedule.state()}
                checkpoints.save(policy, step, {"step": step, "stream": stream.state(), **history}, ahead.write)
    reason = {"step": step, **(early or {})} if end is None else asdict(end)
    context.record("stage_ended", stage=context.name, **reason)
    finish(context, policy)
