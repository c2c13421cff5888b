"""A policy that learns of its own responses what frozen teachers, one a domain, say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeInt, PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.rollout import SamplingConfig, room_problems
from nemo_cascade.config.router import RouterConfig
from nemo_cascade.config.stages.base import DataUse, ModelUse, PolicyStage, Problems, StageSize, policies_by_then
from nemo_cascade.config.stages.policy_loss import PolicyLossConfig, TeacherAdvantageConfig, sampled_is_scored
from nemo_cascade.config.stages.rollout_rules import CurriculumConfig, PromptFilterConfig
from nemo_cascade.config.stages.tasks import PromptsConfig, share_problems
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig


def _gated() -> PolicyLossConfig:
    return PolicyLossConfig(aggregation="sequence", correction="icepop", correction_min=0.5, correction_max=2.0)


@block
class DistillStage(PolicyStage):
    """Multi-domain on-policy distillation, MOPD (arXiv 2603.19220, section 4.4): no verifier, one update a batch."""

    kind: Literal["distill"] = "distill"
    """Stage kind."""
    tasks: dict[str, PromptsConfig]
    """Name -> prompts; their domain names their teacher. Every batch is drawn from all tasks, each prompt as likely as
    any other, or each task by its `weight`."""
    teachers: dict[str, str]
    """Domain -> who teaches it: an earlier stage of this run, `start`, or an HF folder with the policy's tokenizer. A
    teacher of several domains is loaded once."""
    teacher_parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Layout of the ranks that hold all teachers, beside the policy's."""
    steps: PositiveInt
    """Batches, each of one optimizer step."""
    prompts_per_step: PositiveInt
    """Prompts per batch."""
    num_generations: PositiveInt
    """Responses per prompt; one is enough, for there is no group's baseline (section 4.4: 512 x 1 as good as 128 x
    4)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How responses are drawn; student and teachers score them at its temperature."""
    advantage: TeacherAdvantageConfig = field(default_factory=TeacherAdvantageConfig)
    """Advantage of a token by its teacher's log-probability."""
    loss: PolicyLossConfig = field(default_factory=_gated)
    """Policy-gradient loss. The default is equation 4's: tokens whose ratio trainer / engine lies outside of 0.5 to 2
    are masked, mean over a response's tokens, then over responses."""
    router: RouterConfig = field(default_factory=lambda: RouterConfig(trainable=False))
    """Treatment of the routers of a mixture of experts: frozen, as in the published recipes; the biases move on."""
    rollouts_to_keep: NonNegativeInt = 64
    """Responses per step written to rollouts/ to look at."""

    @property
    def prompt_filter(self) -> PromptFilterConfig:
        """Which prompts an epoch leaves out: none, for nobody says which are solved."""
        return PromptFilterConfig()

    @property
    def curriculum(self) -> CurriculumConfig:
        """Whether easy prompts come first: nobody says which are."""
        return CurriculumConfig()

    def asked(self) -> Mapping[str, PromptsConfig]:
        """Return the prompts that it has answered, by their keys."""
        return {f"tasks.{name}": task for name, task in self.tasks.items()}

    def reads(self) -> Iterator[DataUse]:
        """Yield its prompts."""
        for key, task in self.asked().items():
            teacher = self.teachers.get(task.domain)
            yield DataUse(key, task, "prompts", task.domain, f"{task.mode}{task.selection()}, taught by {teacher}")

    def models(self) -> Iterator[ModelUse]:
        """Yield the teachers."""
        yield from (ModelUse(f"teachers.{domain}", name, "teacher") for domain, name in self.teachers.items())

    def teacher_layout(self, run: RunConfig) -> ParallelConfig:
        """Return the layout of the ranks that hold its teachers."""
        return self.teacher_parallel

    def size(self) -> StageSize:
        """Return how large the stage is."""
        responses = self.prompts_per_step * self.num_generations
        batch = f"{self.prompts_per_step} prompts x {self.num_generations}"
        longest = self.sampling.max_tokens
        return StageSize(self.steps, str(self.steps), batch, responses * longest, longest)

    def problems(self, run: RunConfig, name: str) -> Problems:
        """Yield what is wrong with its teachers, lengths, batch and sampling."""
        prefix = f"stages.{name}"
        yield from _teachers(run, name, self)
        yield from room_problems(run.rollout, prefix, self.sampling)
        for key, task in self.asked().items():
            lengths = run.rollout.max_model_len, self.sampling.max_tokens
            yield from task.problems(f"{prefix}.{key}", *lengths, f"{prefix}.sampling.max_tokens")
        if self.seq_length < run.rollout.max_model_len:
            value, limit = f"{prefix}.seq_length={self.seq_length}", f"at least {run.rollout.max_model_len}"
            mend = f"{prefix}.seq_length={run.rollout.max_model_len}"
            yield CascadeError("a micro-batch can't hold the longest response", value=value, limit=limit, mend=mend)
        responses, replicas = self.prompts_per_step * self.num_generations, run.parallel.data_parallel_size
        if responses < replicas:
            value, limit = f"{prefix}: {responses}", f"at least parallel.data_parallel_size={replicas}"
            yield CascadeError(
                "a step has fewer responses than there are replicas",
                value=value,
                limit=limit,
                mend=f"{prefix}.prompts_per_step={-(-replicas // self.num_generations)}",
            )
        if self.sampling.temperature == 0:
            value = f"{prefix}.sampling.temperature=0"
            yield CascadeError(
                "greedy responses say nothing of the policy's distribution",
                value=value,
                limit="above 0",
                mend=f"{prefix}.sampling.temperature=1.0",
            )
        yield from share_problems(prefix, self.tasks)
        yield from sampled_is_scored(prefix, self.sampling, self.loss)


def _teachers(run: RunConfig, name: str, stage: DistillStage) -> Problems:
    prefix, domains = f"stages.{name}", {task.domain for task in stage.tasks.values()}
    if not stage.tasks:
        yield CascadeError(f"{prefix}.tasks is empty", mend="name at least one set of prompts")
    for domain in sorted(domains - stage.teachers.keys()):
        value, limit = f"{prefix}.tasks: {domain}", f"domains of {prefix}.teachers: {', '.join(sorted(stage.teachers))}"
        yield CascadeError("a domain has no teacher", value=value, limit=limit, mend=f"+{prefix}.teachers.{domain}=...")
    for domain in sorted(stage.teachers.keys() - domains):
        value, limit = f"{prefix}.teachers.{domain}", f"domains of its tasks: {', '.join(sorted(domains))}"
        yield CascadeError("a teacher has nothing to teach", value=value, limit=limit, mend="leave it out")
    yield from policies_by_then(run, name, stage.models())
