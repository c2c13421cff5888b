"""Reinforcement learning by group-relative advantages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.rollout import SamplingConfig, room_problems
from nemo_cascade.config.router import RouterConfig, RouterReplayConfig
from nemo_cascade.config.stages.base import DataUse, ModelUse, PolicyStage, Problems, StageBase, StageSize
from nemo_cascade.config.stages.generation import GenerationConfig, generation_problems, staleness_problems
from nemo_cascade.config.stages.policy_loss import AdvantageConfig, PolicyLossConfig, sampled_is_scored
from nemo_cascade.config.stages.rollout_rules import (
    CurriculumConfig,
    DynamicSamplingConfig,
    EndConfig,
    EntropyTargetConfig,
    PromptFilterConfig,
    ScheduleEntry,
    ShapingConfig,
)
from nemo_cascade.config.stages.tasks import TaskConfig, share_problems
from nemo_cascade.config.verifiers.kinds import GENRM, PREFERENCE
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig


@block
class GrpoStage(PolicyStage):
    """Reinforcement learning with verifiable rewards, GRPO."""

    kind: Literal["grpo"] = "grpo"
    """Stage kind."""
    tasks: dict[str, TaskConfig]
    """Name -> prompts with their verifier. Every batch is drawn from all tasks, each prompt as likely as any other, or
    each task by its `weight`."""
    reward_model: str | None = None
    """Who judges where a task's reward is of kind preference or shaping.combine asks for it: an earlier stage of kind
    reward_model, or a model's HF folder."""
    steps: PositiveInt
    """Rollout batches, at most."""
    prompts_per_step: PositiveInt
    """Prompts per rollout batch (the papers' batch size B)."""
    num_generations: Annotated[int, Field(ge=2)]
    """Rollouts per prompt (the papers' G)."""
    updates_per_batch: PositiveInt = 1
    """Optimizer steps per rollout batch; 1 is strictly on-policy."""
    max_staleness: NonNegativeInt = 0
    """Steps by which the weights that drew a rollout may be older than those it trains. 0: engines and policy take
    turns, strictly on-policy. k: engines draw the batch of step t + k while step t trains."""
    correct_staleness: bool = True
    """Where max_staleness is above 0 and loss.correction is none, weigh tokens by policy / engine, truncated to
    [0.2, 5]."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Whether engines draw batch by batch, or without a break."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How rollouts are drawn."""
    schedule: list[ScheduleEntry] = field(default_factory=list)
    """Values that change inside the stage, by steps in order."""
    entropy_target: EntropyTargetConfig = field(default_factory=EntropyTargetConfig)
    """Steers the temperature."""
    overlong: Literal["keep", "mask", "zero"] = "keep"
    """Truncated rollouts: keep the verifier's score; mask (no gradient, but in the group's baseline); zero reward."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """Group-relative advantage."""
    loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    """Policy-gradient loss."""
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    """What is done to the scores before they are rewards."""
    dynamic_sampling: DynamicSamplingConfig = field(default_factory=DynamicSamplingConfig)
    """Batch-wise filtering of groups without signal."""
    prompt_filter: PromptFilterConfig = field(default_factory=PromptFilterConfig)
    """Epoch-wise filtering of prompts without signal."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Prompts from easy to hard."""
    end_when: EndConfig = field(default_factory=EndConfig)
    """Rules that end the stage before its last step."""
    router: RouterConfig = field(default_factory=lambda: RouterConfig(trainable=False))
    """Treatment of the routers of a mixture of experts: frozen, as in the published recipes; the biases move on."""
    router_replay: RouterReplayConfig = field(default_factory=RouterReplayConfig)
    """Replay of the engines' choices of experts, of a mixture of experts."""
    rollouts_to_keep: NonNegativeInt = 64
    """Rollouts per step written to rollouts/ to look at: whole groups, of all domains in turn."""

    def judged(self) -> Mapping[str, TaskConfig]:
        """Return the tasks that its responses are judged on, by their keys."""
        return {f"tasks.{name}": task for name, task in self.tasks.items()}

    def reads(self) -> Iterator[DataUse]:
        """Yield its prompts."""
        filtered = ", filtered each epoch" * self.prompt_filter.enabled
        for key, task in self.judged().items():
            yield DataUse(key, task, "prompts", task.domain, f"{task.mode}{task.selection()}{filtered}")

    def models(self) -> Iterator[ModelUse]:
        """Yield the reward model that judges."""
        if self.reward_model is not None:
            yield ModelUse("reward_model", self.reward_model, "reward")

    @property
    def longest_response(self) -> int:
        """Most tokens of a response in any of its steps."""
        return max([self.sampling.max_tokens, *(entry.max_tokens or 0 for entry in self.schedule)])

    def responses_per_prompt(self) -> int:
        """Return how many responses to a prompt its judges see together, at least."""
        return min([self.num_generations, *(e.num_generations for e in self.schedule if e.num_generations)])

    def preference_model(self) -> tuple[bool, str | None]:
        """Return whether a reward model judges its responses, and which one is named."""
        named = any(task.reward.kind == PREFERENCE for task in self.tasks.values())
        asked = named or self.shaping.combine == "preference"
        return asked, self.reward_model

    def steps_ahead(self) -> int:
        """Return how many steps before they train its responses are drawn."""
        return self.max_staleness

    def keeps_reference(self) -> bool:
        """Tell whether its loss asks for a reference policy."""
        return self.loss.kl_coefficient > 0

    def replays_experts(self) -> bool:
        """Tell whether its routers replay the engines' choices."""
        return self.router_replay.enabled

    @property
    def trained_loss(self) -> PolicyLossConfig:
        """Its loss, with the correction that stale rollouts have by default."""
        if not (self.max_staleness and self.correct_staleness and self.loss.correction == "none"):
            return self.loss
        return replace(self.loss, correction="truncated", correction_min=0.2, correction_max=5.0)

    def size(self) -> StageSize:
        """Return how large the stage is."""
        updates = f" / {self.updates_per_batch} updates" if self.updates_per_batch > 1 else ""
        groups = list(dict.fromkeys([self.num_generations, *(e.num_generations or 0 for e in self.schedule)]))
        told = " -> ".join(str(size) for size in groups if size)
        batch, length = f"{self.prompts_per_step} x {told}{updates}", self.longest_response
        tokens = self.prompts_per_step * max(groups) * length
        planned = f"{self.steps}{self.end_when.early()}"
        return StageSize(self.steps, planned, batch, tokens, length, self.updates_per_batch)

    def metrics_every(self) -> dict[str, int]:
        """Return the metrics that checkpoints can be kept by, and the steps between their values."""
        return {"reward_mean": 1} | super().metrics_every()

    def problems(self, run: RunConfig, name: str) -> Problems:
        """Yield what is wrong with lengths, batches, sampling and rules."""
        prefix = f"stages.{name}"
        yield from room_problems(run.rollout, prefix, self.sampling, self.longest_response)
        if not self.tasks:
            yield CascadeError(f"{prefix}.tasks is empty", mend="name at least one task")
        for key, task in self.judged().items():
            lengths = run.rollout.max_model_len, self.longest_response
            yield from task.problems(f"{prefix}.{key}", *lengths, f"{prefix}.sampling.max_tokens")
        if self.seq_length < run.rollout.max_model_len:
            yield CascadeError(
                "a micro-batch can't hold the longest rollout",
                value=f"{prefix}.seq_length={self.seq_length}",
                limit=f"at least rollout.max_model_len={run.rollout.max_model_len}",
                mend=f"{prefix}.seq_length={run.rollout.max_model_len}",
            )
        yield from share_problems(prefix, self.tasks)
        yield from _curriculum(prefix, self)
        yield from _schedule(prefix, self)
        for size in dict.fromkeys([self.num_generations, *(e.num_generations or 0 for e in self.schedule)]):
            if size:
                yield from _batch(run, prefix, self, size)
        if self.sampling.temperature == 0:
            value = f"{prefix}.sampling.temperature=0"
            yield CascadeError(
                "greedy rollouts of a prompt are all the same: no group has a signal",
                value=value,
                limit="above 0",
                mend=f"{prefix}.sampling.temperature=1.0",
            )
        stale = self.trained_loss != self.loss
        yield from sampled_is_scored(prefix, self.sampling, self.trained_loss, stale=stale)
        yield from staleness_problems(run, prefix, self)
        yield from generation_problems(run, prefix, self)
        yield from _filter_and_end(prefix, self)
        yield from self.router_replay.problems(f"{prefix}.router_replay")


def _curriculum(prefix: str, stage: GrpoStage) -> Problems:
    if not stage.curriculum.enabled:
        return
    for name, task in stage.tasks.items():
        if not task.is_profiled:
            key = f"{prefix}.tasks.{name}.profile"
            mend = f"{key}.samples=16 measures them, {key}.path is a file of `nemo-cascade profile prompts`"
            yield CascadeError("a curriculum needs the prompts' pass rates", value=f"{key}: neither", mend=mend)
    if stage.prompt_filter.enabled:
        value = f"{prefix}.prompt_filter.enabled=true"
        yield CascadeError(
            "a curriculum has no epochs to filter", value=value, mend=f"{prefix}.prompt_filter.enabled=false"
        )


def _schedule(prefix: str, stage: GrpoStage) -> Problems:
    steps = [entry.from_step for entry in stage.schedule]
    if steps != sorted(set(steps)) or any(step >= stage.steps for step in steps):
        value, limit = f"{prefix}.schedule: {steps}", f"rising, below steps={stage.steps}"
        yield CascadeError(
            "steps of a schedule that never come, or not in this order",
            value=value,
            limit=limit,
            mend="number them upwards, each below `steps`",
        )
    if any(entry.temperature == 0 for entry in stage.schedule):
        yield CascadeError(
            "greedy rollouts of a prompt are all the same",
            value=f"{prefix}.schedule: temperature=0",
            mend="a temperature above 0",
        )
    rule = stage.entropy_target
    if rule.nats is None:
        return
    if stage.objective is not None:
        value, mend = (
            f"{prefix}.objective, {prefix}.entropy_target.nats={rule.nats}",
            f"{prefix}.entropy_target.nats=null",
        )
        yield CascadeError("a loss of your own measures no entropy that could steer", value=value, mend=mend)
    if not rule.lowest < rule.highest:
        value = f"{prefix}.entropy_target: lowest={rule.lowest}, highest={rule.highest}"
        yield CascadeError(
            "a temperature that is steered needs room",
            value=value,
            limit="lowest below highest",
            mend=f"{prefix}.entropy_target.lowest={rule.highest / 2}",
        )
    if any(entry.temperature is not None for entry in stage.schedule):
        value = f"{prefix}.schedule gives temperatures, {prefix}.entropy_target steers them"
        yield CascadeError(
            "a temperature is given and steered",
            value=value,
            limit="one of both",
            mend=f"{prefix}.entropy_target.nats=null",
        )


def _batch(run: RunConfig, prefix: str, stage: GrpoStage, group: int) -> Problems:
    rollouts = stage.prompts_per_step * group
    if rollouts % stage.updates_per_batch:
        yield CascadeError(
            "the rollouts of a batch can't be dealt evenly to its updates",
            value=f"{prefix}.updates_per_batch={stage.updates_per_batch}",
            limit=f"a divisor of prompts_per_step x num_generations = {rollouts}",
            mend=f"{prefix}.updates_per_batch=1 is strictly on-policy",
        )
    elif rollouts // stage.updates_per_batch < run.parallel.data_parallel_size:
        yield CascadeError(
            "an update has fewer rollouts than there are replicas",
            value=rollouts // stage.updates_per_batch,
            limit=f"at least parallel.data_parallel_size={run.parallel.data_parallel_size}",
            mend=f"{prefix}.prompts_per_step={-(-run.parallel.data_parallel_size * stage.updates_per_batch // group)}",
        )


def _filter_and_end(prefix: str, stage: GrpoStage) -> Problems:
    unsolvable = sorted({task.reward.kind for task in stage.tasks.values()} & {PREFERENCE, GENRM})
    if stage.prompt_filter.enabled and unsolvable:
        yield CascadeError(
            "a reward model's scores don't tell which prompts are solved",
            value=f"{prefix}.prompt_filter.enabled=true with {', '.join(unsolvable)}",
            limit="verifiers, whose full score is a solution",
            mend=f"{prefix}.prompt_filter.enabled=false",
        )
    rules = stage.end_when
    first = max(rules.window, rules.min_steps)
    if (rules.truncation_rate is not None or rules.plateau_steps is not None) and first >= stage.steps:
        yield CascadeError(
            "no rule can end the stage before its last step",
            value=f"{prefix}.end_when: window={rules.window}, min_steps={rules.min_steps}",
            limit=f"less than steps={stage.steps}",
            mend=f"{prefix}.end_when.window={max(1, stage.steps // 2)} {prefix}.end_when.min_steps=0",
        )


def as_grpo(stage: StageBase) -> GrpoStage | None:
    """Return a stage as what asks prompts whose verifiers are judges of a policy gradient; None: it is another kind."""
    return stage if isinstance(stage, GrpoStage) else None
