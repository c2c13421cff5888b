"""A policy trained on pairs of responses: given ones, or a round of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.rollout import SamplingConfig, room_problems
from nemo_cascade.config.stages.base import DataUse, ModelUse, PolicyStage, Problems, StageSize
from nemo_cascade.config.stages.pairs import PairSetConfig
from nemo_cascade.config.stages.sft import epochs_size
from nemo_cascade.config.stages.tasks import TaskConfig
from nemo_cascade.config.verifiers.kinds import GENRM, PREFERENCE
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig


@block
class PreferenceLossConfig:
    """A policy's loss on pairs of responses (losses/preference.py has the formulas)."""

    form: Literal["dpo", "ipo", "rpo_bwd_kl", "rpo_fwd_kl", "rpo_sq"] = "dpo"
    """dpo: arXiv 2305.18290; ipo: arXiv 2310.12036; rpo_bwd_kl: the RPO of arXiv 2406.11704, which fits the pair's
    reward gap, KL(reward gap || policy); rpo_fwd_kl: the same with its arguments swapped; rpo_sq: the squared
    difference."""
    beta: PositiveFloat = 0.1
    """Scale of the policy's gap in log-probability against the reference's."""
    eta: PositiveFloat = 1.0
    """rpo, or dpo with a margin: scale of the pair's reward gap."""
    margin: bool = False
    """dpo: the pair's reward gap, times eta, is subtracted inside the sigmoid (arXiv 2402.10571)."""
    average: bool = False
    """Log-probabilities of a response are means over its tokens instead of sums."""
    sft_weight: NonNegativeFloat = 0.0
    """Weight of -log p(chosen) beside it, without which both responses grow less likely (arXiv 2406.11704, section
    3.3.2)."""

    @property
    def reads_rewards(self) -> bool:
        """Whether it needs a reward of both responses."""
        return self.form.startswith("rpo") or self.margin

    @property
    def reads(self) -> list[str]:
        """Tensors that a batch must hold beside its tokens."""
        return ["reference_logprobs", *["rewards"] * self.reads_rewards]


@block
class PairRuleConfig:
    """Which two of a prompt's responses become its pair, or that none do."""

    least_gap: NonNegativeFloat = 0.0
    """A pair whose rewards are apart by this or less is a tie: it is left out and counted."""
    least_chosen: float | None = None
    """A pair whose chosen response has a lower reward is left out and counted (arXiv 2406.11704, section 3.3.2: a
    filter on the chosen responses' quality); null: none is."""
    skip_truncated: bool = True
    """A response that was cut off is never chosen; it may be rejected."""


@block
class SampledPairsConfig:
    """A round: responses of the policy as it stands, judged and paired, best against worst.

    They are judged by their task's verifier, or by the reward model where that is the task's. Where a verifier has its
    say and `reward_model` is named, the verifier's score comes first and the reward model's decides among equals: the
    chosen one is the best of the right ones, the rejected one the worst of the wrong ones.
    """

    tasks: dict[str, TaskConfig]
    """Name -> prompts with their verifier."""
    reward_model: str | None = None
    """Who judges: an earlier stage of kind reward_model, or a model's HF folder."""
    prompts: PositiveInt | None = None
    """Prompts of the round, drawn from all tasks; null: each of them once."""
    num_generations: Annotated[int, Field(ge=2)]
    """Responses to each prompt."""
    prompts_per_batch: PositiveInt = 128
    """Prompts that are asked together; a run that was stopped goes on behind the last whole batch."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How responses are drawn."""
    pairs: PairRuleConfig = field(default_factory=PairRuleConfig)
    """Which two become a pair."""


@block
class PreferenceStage(PolicyStage):
    """Preference optimisation against the model that the stage starts from: DPO, IPO, RPO.

    It trains on pairs that are given (`data`), or on a round of its own (`sampled`). Several rounds are several stages:
    each starts from the one before, samples from it, and refers to it (arXiv 2406.11704, section 3.3.2).
    """

    kind: Literal["preference"] = "preference"
    """Stage kind."""
    data: PairSetConfig | None = None
    """Pairs that are given; their replies are learned as they stand, thoughts included."""
    sampled: SampledPairsConfig | None = None
    """Pairs made of the policy's own responses."""
    loss: PreferenceLossConfig = field(default_factory=PreferenceLossConfig)
    """Loss on a pair."""
    global_batch_size: PositiveInt
    """Pairs per optimizer step over all data-parallel ranks."""
    epochs: PositiveInt = 1
    """Passes over the pairs."""
    max_steps: PositiveInt | None = None
    """Stop after so many steps even if the epochs aren't over."""
    share_prompts: bool = False
    """The two responses of a pair attend to one copy of their prompt, which is computed once (arXiv 2410.20305): the
    same numbers but for rounding, from fewer tokens. Dense decoders, without context parallelism."""

    def judged(self) -> Mapping[str, TaskConfig]:
        """Return the tasks that its responses are judged on, by their keys."""
        tasks = {} if self.sampled is None else self.sampled.tasks
        return {f"sampled.tasks.{name}": task for name, task in tasks.items()}

    def reads(self) -> Iterator[DataUse]:
        """Yield its pairs, or its prompts."""
        if self.data is not None:
            yield DataUse("data", self.data, "pairs", "preference")
        for key, task in self.judged().items():
            yield DataUse(key, task, "prompts", task.domain, f"{task.mode}{task.selection()}")

    def models(self) -> Iterator[ModelUse]:
        """Yield the reward model that judges."""
        if self.sampled is not None and self.sampled.reward_model is not None:
            yield ModelUse("sampled.reward_model", self.sampled.reward_model, "reward")

    def responses_per_prompt(self) -> int:
        """Return how many responses to a prompt its judges see together."""
        return 0 if self.sampled is None else self.sampled.num_generations

    def preference_model(self) -> tuple[bool, str | None]:
        """Return whether a reward model judges its responses, and which one is named."""
        if self.sampled is None:
            return False, None
        named = any(task.reward.kind == PREFERENCE for task in self.sampled.tasks.values())
        return named or self.sampled.reward_model is not None, self.sampled.reward_model

    def size(self) -> StageSize:
        """Return how large the stage is."""
        return epochs_size(self.epochs, self.max_steps, self.global_batch_size, "pairs", self.seq_length)

    def shares_prompts(self) -> bool:
        """Tell whether the responses to a prompt attend to one copy of it."""
        return self.share_prompts

    def problems(self, run: RunConfig, name: str) -> Problems:
        """Yield what is wrong with its pairs and its loss."""
        key = f"stages.{name}"
        if (self.data is None) == (self.sampled is None):
            value = "neither data nor sampled" if self.data is None else "both data and sampled"
            mend = f"one of {key}.data and {key}.sampled"
            yield CascadeError("a preference stage has one source of pairs", value=f"{key}: {value}", mend=mend)
        if self.loss.margin and self.loss.form != "dpo":
            value = f"{key}.loss.form={self.loss.form}, {key}.loss.margin=true"
            yield CascadeError("only dpo has a margin", value=value, mend=f"{key}.loss.margin=false")
        if (sampled := self.sampled) is None:
            return
        if not sampled.tasks:
            yield CascadeError(f"{key}.sampled.tasks is empty", mend="name at least one set of prompts")
        yield from room_problems(run.rollout, f"{key}.sampled", sampled.sampling)
        for task_key, task in self.judged().items():
            lengths = run.rollout.max_model_len, sampled.sampling.max_tokens, f"{key}.sampled.sampling.max_tokens"
            yield from task.problems(f"{key}.{task_key}", *lengths)
        if sampled.sampling.temperature == 0:
            value = f"{key}.sampled.sampling.temperature=0"
            yield CascadeError(
                "greedy responses are all the same, so they make no pair",
                value=value,
                limit="above 0",
                mend=f"{key}.sampled.sampling.temperature=1.0",
            )
        if any(task.reward.kind == GENRM for task in sampled.tasks.values()):
            value = f"{key}.sampled.tasks"
            yield CascadeError("a generative reward model makes no pairs", value=value, mend="kind: preference")
        if self.seq_length < 2 * run.rollout.max_model_len:
            yield CascadeError(
                "two responses may not fit into one micro-batch",
                value=f"{key}.seq_length={self.seq_length}",
                limit=f"at least 2 x rollout.max_model_len={run.rollout.max_model_len}",
                mend=f"{key}.seq_length={2 * run.rollout.max_model_len}",
            )
