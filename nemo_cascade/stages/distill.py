"""Multi-domain on-policy distillation, MOPD (Nemotron-Cascade 2, arXiv 2603.19220, section 4.4, equations 2 to 4).

    for each step:
        hand the policy's weights to the engines          # version = step; equality proven after the first
        draw B prompts, G responses each                  # nobody judges them
        the teacher of each prompt's domain scores the sampled tokens
        A_t = sg(logp_teacher - logp_student)             # its mean is - KL(student || teacher)
        w_t = sg(r_t) where 0.5 <= r_t <= 2, else 0,  r = trainer / engine
        loss = - mean over responses of the mean over tokens of w_t A_t logp_student
        one AdamW update

Teachers are models of this cascade (a branch that was trained only to teach, a checkpoint before a domain was lost) or
HF folders, frozen, in ranks of their own.
"""

from pathlib import Path

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.distill import DistillStage
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.prompt_sets import PromptSet, load_prompts
from nemo_cascade.data.prompts.streams import open_stream
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.rl.collect import rollout_seed
from nemo_cascade.rl.distill import distill_line, distill_update, sample
from nemo_cascade.rl.rollout_log import write_responses
from nemo_cascade.stages.between.measuring import Measuring
from nemo_cascade.stages.context import StageCheckpoints, StageContext, finish
from nemo_cascade.stages.hand_over import hand_over
from nemo_cascade.stages.kind import Prepared
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.stages.roles import stage_setup
from nemo_cascade.stages.teachers import check_speaks, frozen_setup, outside_teachers, taught_by, teachers_hash
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer


def prepare_distill(
    config: RunConfig, name: str, stage: DistillStage, start: Path, folder: Path
) -> Prepared[PromptSet]:
    """Read and render the prompts, and look at the teachers that are there; nothing is kept in `folder`."""
    for teacher in outside_teachers(stage, config.stages):
        check_speaks(teacher, start, config.model.family)
    room = config.rollout.max_model_len - stage.sampling.max_tokens
    prompts = load_prompts(stage.tasks, load_tokenizer(start), room, config.data_dir)
    prompts.first(stage.prompts_per_step)
    count = len(set(stage.teachers.values()))
    told = f"{len(prompts)} prompts, {len(prompts.bad)} bad rows, {count} teacher{'s' * (count != 1)}"
    return Prepared(prompts, stage.steps, told)


def run_distill(context: StageContext, stage: DistillStage) -> None:
    """Train one distillation stage to its end, from wherever its folder says it stands."""
    config, roles, parent = context.config, context.roles, context.parent_hf
    prompts = prepare_distill(config, context.name, stage, parent, context.data_folder).source
    folders = taught_by(stage, context.models)
    for folder in dict.fromkeys(folders.values()):
        check_speaks(Path(folder), parent, config.model.family)
    objective = PolicyLoss.from_start(stage.loss, stage.sampling.temperature, str(parent), stage.advantage)
    policy = roles.policy(stage_setup(config, stage, parent, stage.steps, objective))
    engines, hosts = roles.rollout(parent), roles.environments(parent)
    checkpoints = StageCheckpoints(context, stage, stage.steps)
    same = {"teachers": teachers_hash(folders)}
    done, state = checkpoints.resume(policy, needs=("stream",), same=same)
    stream = open_stream(prompts, stage, config.seed, state.get("stream"))
    tokenizer, timer = load_tokenizer(parent), PhaseTimer()
    told = Progress(context.name, stage.steps, done, config.logging, last_line=True)
    with (
        roles.frozen(frozen_setup(config, stage, folders)) as teachers,
        context.metrics(done) as metrics,
        told as progress,
    ):
        step, measuring = done, Measuring(context, stage, stage.steps, metrics.read())
        while step < stage.steps and measuring.reason_to_end is None:
            with timer.phase("sync"):
                hand_over(context, step, first=step == done)
            stream.at(step)
            tasks, seed = stream.take(stage.prompts_per_step), rollout_seed(config.seed, step, 0)
            responses = sample(tasks, stage, seed, engines, hosts, config, timer)
            distilled = distill_update(policy, teachers, folders, responses, stage, config, step, timer)
            write_responses(context.folder, step + 1, responses, distilled, tokenizer, stage.rollouts_to_keep)
            results = [] if distilled.result is None else [distilled.result]
            line = {**distill_line(responses, distilled), **stream.metrics(), **optimizer_line(results)}
            tokens = sum(response.answer.num_sampled for response in responses)
            step += 1
            line |= measuring.measured(step)
            metrics.log(step, {**line, **timer.report(tokens=tokens)})
            progress.advance(f"reverse KL {line['reverse_kl']:.4f}" if line.get("reverse_kl") is not None else "")
            state, end = {"step": step, "stream": stream.state(), **same}, measuring.reason_to_end
            checkpoints.save_if_due(policy, step, state, last=end is not None)
    if (end := measuring.reason_to_end) is not None:
        context.record("stage_ended", stage=context.name, step=step, **end)
    finish(context, policy)
