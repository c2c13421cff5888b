"""A kind of stage in one file: every step trains on the shortest answer to each prompt, by cross-entropy."""

from collections.abc import Iterator, Mapping

import numpy as np
from pydantic import PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.config.stages.base import DataUse, PolicyStage, Problems, StageSize
from nemo_cascade.config.stages.rollout_rules import PromptFilterConfig
from nemo_cascade.config.stages.tasks import TaskConfig
from nemo_cascade.errors import CascadeError


@block
class Shortest(PolicyStage):
    """Learn to be brief."""

    prompts: TaskConfig
    """What is asked."""
    sampling: SamplingConfig
    """How answers are drawn."""
    steps: PositiveInt
    """Optimizer steps."""
    prompts_per_step: PositiveInt = 4
    """Prompts of a step."""
    num_generations: PositiveInt = 2
    """Answers to each."""

    @classmethod
    def work(cls):
        from nemo_cascade.stages.kind import StageKind

        return StageKind(prepare, run)

    def judged(self) -> Mapping[str, TaskConfig]:
        return {"prompts": self.prompts}

    def reads(self) -> Iterator[DataUse]:
        yield DataUse("prompts", self.prompts, "prompts", self.prompts.domain, "asked")

    def responses_per_prompt(self) -> int:
        return self.num_generations

    def size(self) -> StageSize:
        tokens = self.prompts_per_step * self.sampling.max_tokens
        return StageSize(self.steps, str(self.steps), f"{self.prompts_per_step}", tokens, self.sampling.max_tokens)

    def problems(self, run, name) -> Problems:
        if self.seq_length < run.rollout.max_model_len:
            value, limit = f"stages.{name}.seq_length={self.seq_length}", f"at least {run.rollout.max_model_len}"
            yield CascadeError("a micro-batch can't hold the longest answer", value=value, limit=limit)


def prepare(config, name, stage, start, folder):
    from nemo_cascade.data.chat.tokenizer import load_tokenizer
    from nemo_cascade.data.prompts.prompt_sets import load_prompts
    from nemo_cascade.stages.kind import Prepared

    room = config.rollout.max_model_len - stage.sampling.max_tokens
    prompts = load_prompts({"prompts": stage.prompts}, load_tokenizer(start), room, config.data_dir)
    return Prepared(prompts, stage.steps, f"{len(prompts)} prompts")


def run(context, stage) -> None:
    from nemo_cascade.data.batches import balanced_micro_batches
    from nemo_cascade.data.chat.tokenizer import load_tokenizer
    from nemo_cascade.data.layout import sampled_document
    from nemo_cascade.data.prompts.prompt_stream import PromptStream
    from nemo_cascade.losses.cross_entropy import SftLoss
    from nemo_cascade.rl.ask import Answerers, ask
    from nemo_cascade.stages.context import StageCheckpoints, finish
    from nemo_cascade.stages.hand_over import hand_over
    from nemo_cascade.stages.log_lines import optimizer_line
    from nemo_cascade.stages.roles import stage_setup
    from nemo_cascade.telemetry.timers import PhaseTimer

    config, roles, start = context.config, context.roles, context.parent_hf
    prompts = prepare(config, context.name, stage, start, context.data_folder).source
    policy = roles.policy(stage_setup(config, stage, start, stage.steps, SftLoss()))
    judges = roles.judges(start, stage.num_generations, None)
    by = Answerers(roles.rollout(start), judges, load_tokenizer(start), config, roles.environments(start))
    checkpoints = StageCheckpoints(context, stage, stage.steps)
    done, state = checkpoints.resume(policy, needs=("stream",))
    stream = PromptStream(prompts, config.seed, PromptFilterConfig(), stage.prompts_per_step, state.get("stream"))
    timer = PhaseTimer()
    with context.metrics(done) as metrics:
        for step in range(done, stage.steps):
            hand_over(context, step, first=step == done)
            tasks = stream.take(stage.prompts_per_step)
            groups = ask(tasks, stage.num_generations, stage.sampling, step, by, f"step {step + 1}", timer)
            shortest = [min(group.answers, key=lambda answer: answer.num_sampled) for group in groups]
            documents = [sampled_document(answer, {}) for answer in shortest]
            source = balanced_micro_batches(documents, stage.seq_length, config.parallel.data_parallel_size)
            line = optimizer_line([policy.train_step(source, step)])
            length = float(np.mean([answer.num_sampled for answer in shortest]))
            metrics.log(step + 1, {**line, "shortest": length, **timer.report(tokens=line["tokens"])})
            checkpoints.save_if_due(policy, step + 1, {"step": step + 1, "stream": stream.state()})
    finish(context, policy)
