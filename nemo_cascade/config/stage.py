"""The stages of a cascade: supervised fine-tuning, reward model and GRPO."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.model import OptimizerConfig, ParallelConfig
from nemo_cascade.config.rollout import SamplingConfig

PREFERENCE = "preference"
"""The verifier that is a reward model."""
GENRM = "genrm"
"""The verifier that is a generative reward model; all others are in the reward registry."""

Fraction = Annotated[float, Field(ge=0, le=1)]


@block
class SourceConfig(DataFileConfig):
    """One set of training conversations: rows with `messages`, and perhaps `tools` and `mode`."""

    domain: str = "general"
    """Domain that its tokens count for in reports."""
    repeat: PositiveFloat = 1.0
    """Passes over it in an epoch (the papers' up-sampling); 1.5: once, and half of its tokens, drawn, once more."""
    max_samples: PositiveInt | None = None
    """Use only the first so many rows."""
    max_tokens: PositiveInt | None = None
    """Most tokens that it brings to an epoch; over it, samples are drawn."""
    weight: PositiveFloat | None = None
    """Share of the epoch's tokens, relative to the other sources; it then is passed over at most `repeat` times."""


@block
class DedupConfig:
    """Samples that repeat an earlier one, in this source or another; the first stays, the others are dropped."""

    method: Literal["none", "exact", "near"] = "none"
    """exact: the same but for case, white space and the script of digits; near: also those whose runs of words mostly
    agree (MinHash), which drops templated problems that differ in their numbers only."""
    threshold: Fraction = 0.7
    """near: share of common runs of words (Jaccard similarity) from which on two samples are the same."""
    shingle_words: PositiveInt = 3
    """near: words of a run."""
    permutations: PositiveInt = 128
    """near: MinHash permutations; the estimate's standard error is at most 0.5 / sqrt of it."""


@block
class DecontaminateConfig:
    """Samples that hold evaluation prompts (arXiv 2512.13607, section 3.2: 9-gram)."""

    against: list[str] = field(default_factory=list)
    """Files or folders of the evaluation sets; empty: nothing is looked for."""
    ngram: PositiveInt = 9
    """A sample that shares this many words in a row with a prompt holds it."""
    rule: Literal["drop", "refuse"] = "drop"
    """drop: such samples are dropped and counted; refuse: they stop the run, named by file and line."""


@block
class SftDataConfig:
    """Training conversations of an SFT stage and the rules they must obey."""

    sources: list[SourceConfig]
    """What is trained on."""
    domain_weights: dict[str, PositiveFloat] = field(default_factory=dict)
    """Domain -> its share of the epoch's tokens, any scale; names every domain of the sources. Empty: as they come."""
    overlong: Literal["refuse", "drop", "truncate"] = "refuse"
    """A sample longer than seq_length: refuse stops the run; drop counts it against max_bad_fraction; truncate keeps
    its whole turns up to the last assistant turn that fits, and drops it where none does."""
    max_bad_fraction: Fraction = 0.0
    """Largest share of rows that may be broken, without a reply, or dropped for their length before the run is refused;
    those that are allowed are listed in the packed data's quarantine.jsonl."""
    packing_order: Literal["decreasing", "drawn"] = "decreasing"
    """decreasing: best fit, longest first, the fullest packs; drawn: best fit in a drawn order, packs of mixed lengths,
    which small batches of short samples need."""
    shuffle_seed: NonNegativeInt = 0
    """Seeds the order of the packs, together with the run's seed."""
    dedup: DedupConfig = field(default_factory=DedupConfig)
    """Samples that repeat others."""
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    """Samples that hold evaluation prompts."""
    workers: NonNegativeInt = 0
    """Processes that read and tokenise; 0: one per core, fewer for little data. The result doesn't depend on it."""


@block
class PairDataConfig(DataFileConfig):
    """Pairs of responses, one preferred: what a reward model learns from, and what it is measured on.

    Rows have `messages` ending in a user turn, `chosen`, `rejected`; each of these a text or a list of messages that
    ends with the reply.
    """

    holdout_path: str
    """Pairs of the same kind that are never trained on; a prompt that is also in `path` refuses the run."""
    holdout_split: str | None = None
    """hf:// only: their split; null: `split`."""
    overlong: Literal["refuse", "drop"] = "refuse"
    """A pair longer than seq_length stops the run, or is dropped and counted against max_bad_fraction."""
    max_bad_fraction: Fraction = 0.0
    """Largest share of pairs that may be dropped (broken, equal responses, an empty one, overlong) before the run is
    refused; those that are allowed are listed in the tokenised data's quarantine.jsonl. A released set's ties don't
    count."""
    shuffle_seed: NonNegativeInt = 0
    """Seeds the order of the pairs, together with the run's seed."""


@block
class RepairPromptConfig:
    """Prompts of SWE RL made of each row's issue and files (arXiv 2512.13607, section 4.7.1; data/swe_prompts.py)."""

    enabled: bool = False
    """Build prompts from `problem`, `files` and the golden patch, up to prompts.max_tokens; off: rows hold them."""
    kinds: list[Literal["ground_truth", "mixed"]] = field(default_factory=lambda: ["ground_truth", "mixed"])
    """ground_truth: the files that the golden patch changes; mixed: noise files among them; left out if none fits."""
    max_files: PositiveInt = 5
    """Noise files are added up to so many files in all."""
    seed: NonNegativeInt = 0
    """Of the draw of noise files and of the files' order."""


@block
class PromptSetConfig(DataFileConfig):
    """Prompts of an RL stage: rows with `messages`, ending in a user's turn, and what the verifier needs."""

    domain: str
    """Domain that is rewarded."""
    verifier: str
    """Verifier in the reward registry; `preference`: the reward model; `genrm`: the generative one (reward.genrm)."""
    mode: Literal["think", "no_think", "half"] = "think"
    """Whether replies think (arXiv 2512.13607, section 3.1.2); half: those to every other prompt of a batch (section
    4.3, unified models)."""
    min_tokens: NonNegativeInt = 0
    """Prompts of fewer tokens are left out (SWE RL)."""
    max_tokens: PositiveInt | None = None
    """Prompts of more tokens are left out (SWE RL's input length); null: one that leaves its response no room in
    rollout.max_model_len stops the run."""
    max_bad_fraction: Fraction = 0.0
    """Largest share of rows that may be no prompts before the run is refused; those that are allowed are listed in
    data_dir/quarantine."""
    repair: RepairPromptConfig = field(default_factory=RepairPromptConfig)
    """Builds repair prompts from files."""


@block
class AdvantageConfig:
    """Group-relative advantage (arXiv 2512.13607, section 4.1.2; recipes differ in the switches)."""

    baseline: Literal["mean", "leave_one_out"] = "mean"
    """Mean of the group, or of the other G-1 rollouts."""
    normalize_by_std: bool = True
    """Divide by the group's standard deviation (off: Dr. GRPO)."""
    std_epsilon: PositiveFloat = 1e-6
    """Added to the standard deviation; a group whose spread is below it has advantage 0."""


@block
class PolicyLossConfig:
    """The policy-gradient loss. The defaults are Cascade's: on-policy, token-level, no KL, no entropy."""

    aggregation: Literal["token", "sequence"] = "token"
    """token: one pool of all tokens of the global batch; sequence: mean per response, then mean over responses."""
    clip_ratio_low: PositiveFloat = 0.2
    """PPO ratio is clipped below at 1 - this; inert while there is one update per batch."""
    clip_ratio_high: PositiveFloat = 0.2
    """PPO ratio is clipped above at 1 + this (DAPO's clip-higher: 0.28)."""
    correction: Literal["none", "truncated", "icepop", "sequence_mask"] = "none"
    """Importance weight trainer/engine: none; truncated to [min, max]; tokens outside [min, max] masked (IcePop);
    sequences whose geometric-mean ratio lies outside [min, max] masked, token weight raw otherwise."""
    correction_min: NonNegativeFloat = 0.0
    """Lower bound of the importance weight."""
    correction_max: PositiveFloat = 2.0
    """Upper bound of the importance weight."""
    kl_coefficient: NonNegativeFloat = 0.0
    """Weight of KL(policy || reference), k3 estimator exp(d) - 1 - d with d = logp_ref - logp."""
    entropy_coefficient: NonNegativeFloat = 0.0
    """Weight of the entropy bonus."""


@block
class DynamicSamplingConfig:
    """Batch-wise dynamic sampling (DAPO; Cascade's IF-RL): resample until every group has variance."""

    enabled: bool = False
    """Drop groups whose rewards are all equal and draw new prompts in their place."""
    max_rounds: PositiveInt = 4
    """Generation rounds per step; after the last the step goes on with what there is, counted."""


@block
class PromptFilterConfig:
    """Epoch-wise filtering of prompts (arXiv 2512.13607, section 4.5; its defaults are the paper's).

    After each epoch the prompts that all their rollouts solved, and those that none did, leave the stream; in each
    later epoch some of them, drawn anew, are asked again, and come back for good where their rollouts differ by then.
    """

    enabled: bool = False
    """Filter."""
    readmit_easy: Fraction = 0.01
    """Probability with which a prompt that all rollouts solved is asked again in an epoch."""
    readmit_hard: Fraction = 0.1
    """Probability with which a prompt that no rollout solved is asked again in an epoch."""


@block
class EndConfig:
    """When a stage is over before its `steps`; the first rule that applies."""

    truncation_rate: Fraction | None = None
    """The share of truncated rollouts, mean over `window` steps, has reached this: from above, if the first window's
    was higher, else from below (arXiv 2512.13607, section 4.5: a sub-stage of math RL ends at about 0.1)."""
    plateau_steps: PositiveInt | None = None
    """The reward, mean over `window` steps, has not risen above its best for so many steps."""
    plateau_margin: NonNegativeFloat = 0.0
    """A rise by less than this is none."""
    window: PositiveInt = 10
    """Steps that a mean is taken over."""
    min_steps: NonNegativeInt = 0
    """No rule applies before so many steps."""


@block
class ShapingConfig:
    """From the verdicts of a batch to its rewards; by default the scores are the rewards."""

    combine: Literal["none", "preference"] = "none"
    """preference: 1 + sigmoid of the reward model's group z-score where the verifier's score is 1, else 0
    (arXiv 2512.13607, section 4.4.2)."""
    code_switch_margin: PositiveFloat | None = None
    """A response to a prompt in `language` that holds text of a foreign script gets the batch's minimum minus this
    (arXiv 2512.13607, section 4.3: 10); null doesn't look."""
    language: str = "en"
    """Language of the prompts that the rule is for, ISO 639-1."""
    bounded: bool = False
    """tanh of the group's z-scores, for a shaky reward model (arXiv 2512.13607, sections 4.3 and 6)."""


@block
class CarryConfig:
    """What a stage takes over from its parent beside the weights."""

    optimizer: bool = False
    """Keep Adam's moments and the schedule position (same layout and kind only)."""


@block
class PromiseConfig:
    """What a stage promises; the gate checks it."""

    improve: list[str] = field(default_factory=list)
    """Domains whose score must rise significantly over the parent's."""
    hold: list[str] = field(default_factory=lambda: ["*"])
    """Domains that may not fall by more than the gate's tolerance; `*`: all others."""


@block
class StageBase:
    """What all stages have."""

    optimizer: OptimizerConfig
    """AdamW and schedule."""
    seq_length: PositiveInt
    """Length of a packed micro-batch, tokens."""
    checkpoint_every: PositiveInt = 50
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: PositiveInt = 2
    """Newest complete checkpoints that stay on disk."""
    carry: CarryConfig = field(default_factory=CarryConfig)
    """What is taken over from the parent."""
    promise: PromiseConfig = field(default_factory=PromiseConfig)
    """What the gate checks afterwards."""
    gate: dict[str, Any] = field(default_factory=dict)
    """Fields of `gate` that this stage sets differently."""


@block
class PolicyStage(StageBase):
    """What the stages have that change the policy."""

    select: Literal["last", "best"] = "last"
    """Which model is the stage's result: the last, or the best of its kept checkpoints (`keep_checkpoints` of them)."""
    select_prompts: PositiveInt = 64
    """best: prompts of each suite of the domains in `promise.improve` (of all, where none is) that the checkpoints are
    scored on: the first so many. The gate judges the best one on the whole suites."""


@block
class SftStage(PolicyStage):
    """Supervised fine-tuning on packed conversations; loss on assistant tokens only."""

    kind: Literal["sft"] = "sft"
    """Stage kind."""
    data: SftDataConfig
    """Conversations."""
    global_batch_size: PositiveInt
    """Packs per optimizer step over all data-parallel ranks."""
    epochs: PositiveInt = 1
    """Passes over the data."""
    max_steps: PositiveInt | None = None
    """Stop after so many steps even if the epochs aren't over."""


@block
class RewardModelStage(StageBase):
    """A reward model: scalar head, Bradley-Terry loss (arXiv 2512.13607, section 4.2.2).

    It stands beside the policy's line: the next stage starts from the model that this one's predecessor left.
    """

    kind: Literal["reward_model"] = "reward_model"
    """Stage kind."""
    data: PairDataConfig
    """Pairs."""
    model_path: str | None = None
    """HF folder that it starts from, a language model or a reward model; null: the policy as it stands."""
    parallel: ParallelConfig | None = None
    """Layout of its ranks, which a larger model needs; null: the policy's."""
    global_batch_size: PositiveInt
    """Pairs per optimizer step over all data-parallel ranks."""
    epochs: PositiveInt = 1
    """Passes over the pairs."""
    max_steps: PositiveInt | None = None
    """Stop after so many steps even if the epochs aren't over."""
    min_accuracy: Fraction = 0.5
    """Least share of hold-out pairs that it must order right; below it the gate holds the cascade."""


@block
class GrpoStage(PolicyStage):
    """Reinforcement learning with verifiable rewards, GRPO."""

    kind: Literal["grpo"] = "grpo"
    """Stage kind."""
    prompts: PromptSetConfig
    """Prompts and their verifier."""
    mixed_with: list[PromptSetConfig] = field(default_factory=list)
    """Further sets, of other domains: every batch is drawn from all of them, each prompt as likely as any other."""
    reward_model: str | None = None
    """Who judges where the verifier is `preference` or shaping.combine asks for it: an earlier stage of kind
    reward_model, or a model's HF folder."""
    steps: PositiveInt
    """Rollout batches, at most."""
    prompts_per_step: PositiveInt
    """Prompts per rollout batch (the papers' batch size B)."""
    num_generations: Annotated[int, Field(ge=2)]
    """Rollouts per prompt (the papers' G)."""
    updates_per_batch: PositiveInt = 1
    """Optimizer steps per rollout batch; 1 is strictly on-policy."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How rollouts are drawn."""
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
    end_when: EndConfig = field(default_factory=EndConfig)
    """Rules that end the stage before its last step."""
    rollouts_to_keep: NonNegativeInt = 64
    """Rollouts per step written to rollouts/ to look at."""

    @property
    def prompt_sets(self) -> list[PromptSetConfig]:
        """All sets that a batch is drawn from."""
        return [self.prompts, *self.mixed_with]


Stage = Annotated[SftStage | RewardModelStage | GrpoStage, Field(discriminator="kind")]
