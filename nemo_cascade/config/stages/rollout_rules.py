"""What an RL stage does about prompts and verdicts, and when it ends."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nemo_cascade.config.base import Fraction, block
from nemo_cascade.config.rollout import Temperature


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
class CurriculumConfig:
    """Prompts from easy to hard, by their pass rates (arXiv 2512.20848, section 3.2, which gives no numbers; the tasks'
    `profile`s hold the rates).
    """

    enabled: bool = False
    """Draw by difficulty instead of in epochs."""
    mean_from: Fraction = 0.8
    """Mean pass rate of the first batch."""
    mean_to: Fraction = 0.2
    """Mean pass rate from the last step of the slide on."""
    spread: PositiveFloat = 0.2
    """Standard deviation of the pass rates in a batch."""
    steps: PositiveInt = 100
    """Steps of the slide, in which the mean falls linearly."""
    profile_on_plateau: PositiveInt | None = None
    """After so many steps without a rise of the reward, profile all prompts with the policy as it is and begin the
    slide anew; null: never."""
    plateau_window: PositiveInt = 10
    """Steps that the reward's mean is taken over."""
    profile_samples: PositiveInt = 8
    """Samples of each prompt in such a profile."""


@block
class ScheduleEntry:
    """Values that hold from a step on, until a later entry gives others."""

    from_step: PositiveInt
    """Steps that are done by then."""
    temperature: Temperature | None = None
    """Of sampling, and of the log-probs that are trained; null: as before."""
    num_generations: Annotated[int, Field(ge=2)] | None = None
    """Rollouts per prompt; null: as before."""
    max_tokens: PositiveInt | None = None
    """Most response tokens; null: as before."""


@block
class EntropyTargetConfig:
    """A temperature that is steered so that the policy's entropy stays where it should (arXiv 2506.13284: temperature-
    adjusted entropy near 0.3; the paper picks temperatures by hand).
    """

    nats: PositiveFloat | None = None
    """Entropy per sampled token, at the temperature of sampling; null: the temperature isn't steered."""
    gain: PositiveFloat = 0.1
    """What the temperature moves by for each nat that is missing, per step."""
    lowest: Annotated[float, Field(ge=0.01, le=2)] = 0.6
    """Lowest temperature."""
    highest: Annotated[float, Field(ge=0.01, le=2)] = 1.2
    """Highest temperature."""


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

    def early(self) -> str:
        """Return in words by which rules a stage ends earlier."""
        early = [f"{self.truncation_rate:.0%} truncated"] if self.truncation_rate is not None else []
        early += [f"no rise in {self.plateau_steps}"] if self.plateau_steps is not None else []
        return f" or {' or '.join(early)}" if early else ""


@block
class PenaltiesConfig:
    """Faults of form that cost a rollout its reward, which then is at most the value that is given (NeMo-RL's recipes
    of Nemotron 3: 0); null doesn't look. What was truncated is `overlong`'s.
    """

    invalid_call: float | None = None
    """A turn calls a tool that there isn't, without what it needs, or in a form that can't be read."""
    malformed_thought: float | None = None
    """A turn's think tags aren't one opening and one closing where it is to think, and none where it isn't."""
    duplicate_thought: float | None = None
    """A turn's answer is its thought, word by word."""
    empty_answer: float | None = None
    """A turn says nothing behind its thought."""


@block
class LengthControlConfig:
    """Rewards for the short among a group's good responses (arXiv 2512.20848, section 3.3.2; its numbers are 0.5), for
    the scores of any judge.
    """

    think: NonNegativeFloat = 0.0
    """Weight of short thinking."""
    answer: NonNegativeFloat = 0.0
    """Weight of a short answer."""
    think_bonus: NonNegativeFloat = 0.0
    """For the shortest thinking, if good enough."""
    answer_bonus: NonNegativeFloat = 0.0
    """For the shortest answer, if good enough."""
    quality_percentile: Annotated[float, Field(ge=0, le=100)] = 80.0
    """Percentile of the group's rewards that is good enough; of the rewards that are there, as in NeMo Gym."""


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
    penalties: PenaltiesConfig = field(default_factory=PenaltiesConfig)
    """Faults of form."""
    least_best: float | None = None
    """A group none of whose rewards lies above this isn't trained (arXiv 2603.19220, agentless SWE RL: 0.5); null: all
    are."""
    bounded: bool = False
    """tanh of the group's z-scores, for a shaky reward model (arXiv 2512.13607, sections 4.3 and 6)."""
    length_control: LengthControlConfig = field(default_factory=LengthControlConfig)
    """Rewards for short responses, on top of all else."""
