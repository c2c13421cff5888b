"""Responses of the policy as it stands, judged and paired: what a preference stage does where no pairs are given."""

from typing import Any

from nemo_cascade.config.stages.preference import PreferenceStage
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.responses import ResponseStore
from nemo_cascade.errors import PausedError
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.round import Round
from nemo_cascade.stages.context import StageContext
from nemo_cascade.stages.pause import TimeLeft, job_end
from nemo_cascade.stages.profile import profiled_at_start
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer


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
