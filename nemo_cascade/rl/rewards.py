"""From verdicts to rewards: the rules that a stage applies to a batch's scores, in one order, each with its text.

    truncated     keep, zero, or no gradient            tables 16-20, section 4.5
    penalties     faults of form                        rl/penalties.py
    hopeless      groups without a good response        arXiv 2603.19220, agentless SWE RL
    combined      verifier and reward model             section 4.4.2
    code switch   text of a foreign script              section 4.3
    bounded       tanh of the group's z-scores          sections 4.3 and 6
    length        the short and good among a group      arXiv 2512.20848, section 3.3.2

(arXiv 2512.13607, but for the last.) A plan and a report write out the same list, and dynamic sampling asks it of
single groups.
Zero comes before all shaping: a truncated response is then bounded like the wrong answer that it is taken for; 0
behind the bound would be the group's mean.

Shapes: P groups, G samples of each. Only valid entries are read; the others are 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.config.stages.rollout_rules import LengthControlConfig, ShapingConfig
from nemo_cascade.config.verifiers.kinds import PREFERENCE
from nemo_cascade.rewards.form import prompt_text
from nemo_cascade.rewards.formula import reward_formula
from nemo_cascade.rewards.language import foreign_text, written_in
from nemo_cascade.rewards.shaping import (
    LengthControl,
    bounded_scores,
    combined_instruction_rewards,
    length_controlled,
    part_lengths,
    punish_code_switch,
)
from nemo_cascade.rl.penalties import penalties_of
from nemo_cascade.types import Task

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(slots=True)
class Marks:
    """What rules read, and what they write.

    Attributes:
        tasks: [P].
        texts: () -> [P][G], the responses; asked only where a rule reads them.
        turns: () -> [P][G][turns], all that the policy said; likewise.
        scores: [P, G] float64, the judge's.
        valid: [P, G], judged; by the reward model too, if it has a say.
        truncated: [P, G], hit a limit.
        preferences: [P, G] float64, the reward model's scores, 0 where it wasn't asked.
        rewards: [P, G] float64, written; begins as the scores.
        trained: [P, G], written: gets a gradient; begins as `valid`.
        switched: [P, G], written: holds text of a foreign script.
        faults: written: rollouts with each fault of form that costs a reward.
    """

    tasks: Sequence[Task]
    texts: Callable[[], Sequence[Sequence[str]]]
    turns: Callable[[], Sequence[Sequence[Sequence[str]]]]
    scores: Float64
    valid: Bool
    truncated: Bool
    preferences: Float64
    rewards: Float64
    trained: Bool
    switched: Bool
    faults: dict[str, int] = field(default_factory=dict)


class Rule(Protocol):
    """One thing that a stage does to its scores.

    Attributes:
        shapes: False for what decides whether a task is solved; True for what comes on top of that.
        text: what it does, in the words of a formula.
    """

    shapes: ClassVar[bool]

    @property
    def text(self) -> str:
        """What it does, in the words of a formula."""

    def apply(self, marks: Marks) -> None:
        """Change rewards, or who is trained."""


@dataclass(frozen=True)
class TruncatedIsZero:
    """A truncated response is a wrong answer."""

    shapes: ClassVar[bool] = False
    text: str = "truncated: r = 0"

    def apply(self, marks: Marks) -> None:
        """Set its reward to 0."""
        marks.rewards[marks.truncated] = 0.0


@dataclass(frozen=True)
class TruncatedIsMasked:
    """A truncated response counts in its group's baseline, and isn't trained."""

    shapes: ClassVar[bool] = False
    text: str = "truncated: no gradient"

    def apply(self, marks: Marks) -> None:
        """Take it out of training."""
        marks.trained &= ~marks.truncated


@dataclass(frozen=True)
class HopelessIsMasked:
    """A group without a good response says which of its bad ones is the least bad: it isn't trained.

    Args:
        least: what the best of its responses that are trained must exceed.
    """

    least: float
    shapes: ClassVar[bool] = False

    @property
    def text(self) -> str:
        """Which groups are left out."""
        return f"no r > {self.least:g} in group: no gradient"

    def apply(self, marks: Marks) -> None:
        """Take whole groups out of training."""
        best = np.where(marks.trained, marks.rewards, -np.inf).max(axis=1, initial=-np.inf)
        marks.trained &= (best > self.least)[:, None]


@dataclass(frozen=True)
class Combined:
    """The reward model ranks the verified responses of a group."""

    reward_model: str
    shapes: ClassVar[bool] = True

    @property
    def text(self) -> str:
        """The combined reward."""
        return f"r = 1 + sigmoid(z of {self.reward_model} in group) if r >= 1 else 0"

    def apply(self, marks: Marks) -> None:
        """Combine within each group."""
        for row, model, mask in zip(marks.rewards, marks.preferences, marks.valid, strict=True):
            if mask.any():
                row[mask] = combined_instruction_rewards(row[mask] >= 1.0, model[mask])


@dataclass(frozen=True)
class CodeSwitch:
    """A response that holds text of a foreign script falls below the whole batch."""

    margin: float
    language: str
    shapes: ClassVar[bool] = True

    @property
    def text(self) -> str:
        """The punishment."""
        return f"code switch: r = batch minimum - {self.margin:g}"

    def apply(self, marks: Marks) -> None:
        """Find them, and set their rewards to the batch's minimum minus the margin."""
        marks.switched[:] = code_switches(marks.tasks, marks.texts(), self.language)
        if marks.valid.any():
            rewards, switched = marks.rewards[marks.valid], marks.switched[marks.valid]
            marks.rewards[marks.valid] = punish_code_switch(rewards, switched, self.margin)


@dataclass(frozen=True)
class Bounded:
    """A shaky reward model's word is bounded."""

    shapes: ClassVar[bool] = True
    text: str = "r = tanh((r - group mean) / group std)"

    def apply(self, marks: Marks) -> None:
        """Take tanh of the z-scores within each group."""
        for row, mask in zip(marks.rewards, marks.valid, strict=True):
            if mask.any():
                row[mask] = bounded_scores(row[mask])


@dataclass(frozen=True)
class LengthControlled:
    """Short responses of a group gain, the shortest more if it is good enough."""

    control: LengthControl
    shapes: ClassVar[bool] = True

    @property
    def text(self) -> str:
        """The terms that count."""
        control = self.control
        terms = {"thinking": control.think, "answer": control.answer}
        bonuses = {"thinking": control.think_bonus, "answer": control.answer_bonus}
        told = [f"{weight:g} x shortness of {part}" for part, weight in terms.items() if weight]
        told += [f"{bonus:g} for the shortest {part} if good enough" for part, bonus in bonuses.items() if bonus]
        return f"length: r + {' + '.join(told)}"

    def apply(self, marks: Marks) -> None:
        """Add the terms within each group."""
        for row, texts, mask in zip(marks.rewards, marks.texts(), marks.valid, strict=True):
            if mask.any():
                lengths = part_lengths([text for text, valid in zip(texts, mask, strict=True) if valid])
                row[mask] = length_controlled(row[mask], *lengths, self.control)


class Rewarding(Protocol):
    """What rules follow from; a GRPO stage's config has it."""

    @property
    def overlong(self) -> str:
        """What becomes of truncated rollouts."""

    @property
    def reward_model(self) -> str | None:
        """Who ranks verified responses."""

    @property
    def shaping(self) -> ShapingConfig:
        """What is done to scores."""


@dataclass(frozen=True)
class _Told:
    """The same, of a configuration as a dictionary."""

    overlong: str
    reward_model: str | None
    shaping: ShapingConfig


def _truncated(stage: Rewarding) -> Sequence[Rule]:
    rules: dict[str, Sequence[Rule]] = {"zero": (TruncatedIsZero(),), "mask": (TruncatedIsMasked(),)}
    return rules.get(stage.overlong, ())


def _penalties(stage: Rewarding) -> Sequence[Rule]:
    return penalties_of(stage.shaping.penalties)


def _hopeless(stage: Rewarding) -> Sequence[Rule]:
    least = stage.shaping.least_best
    return () if least is None else (HopelessIsMasked(least),)


def _combined(stage: Rewarding) -> Sequence[Rule]:
    return (Combined(str(stage.reward_model)),) if stage.shaping.combine == "preference" else ()


def _code_switch(stage: Rewarding) -> Sequence[Rule]:
    margin = stage.shaping.code_switch_margin
    return () if margin is None else (CodeSwitch(margin, stage.shaping.language),)


def _bounded(stage: Rewarding) -> Sequence[Rule]:
    return (Bounded(),) if stage.shaping.bounded else ()


def _length_controlled(stage: Rewarding) -> Sequence[Rule]:
    control = _control(stage.shaping.length_control)
    counts = (control.think, control.answer, control.think_bonus, control.answer_bonus)
    return (LengthControlled(control),) if any(counts) else ()


def _control(asked: LengthControlConfig) -> LengthControl:
    bonuses = asked.think_bonus, asked.answer_bonus
    return LengthControl(asked.think, asked.answer, *bonuses, asked.quality_percentile)


RULES: tuple[Callable[[Rewarding], Sequence[Rule]], ...] = (
    _truncated,
    _penalties,
    _hopeless,
    _combined,
    _code_switch,
    _bounded,
    _length_controlled,
)
"""All rules that there are, in the order in which they apply: (a stage) -> those that it turns on."""


def rules_of(stage: Rewarding) -> list[Rule]:
    """Return the rules that a stage turns on, in order."""
    return [rule for make in RULES for rule in make(stage)]


def stage_formula(stage: Mapping[str, Any]) -> str:
    """Return what a stage learns by, for plans and reports: reward r and advantage A, a pair, a teacher's logits.

    Args:
        stage: the stage's configuration as a dictionary.

    Returns:
        The text; empty for a stage of another kind, whose rewards aren't known here.
    """
    own = stage.get("objective")
    if own and "advantage" not in stage:
        return _own_formula(own)
    if stage.get("kind") == "preference":
        return _pair_formula(stage["sampled"], stage["loss"]["form"]) if stage["sampled"] else ""
    if stage.get("kind") == "distill":
        return _distill_formula(stage)
    if stage.get("kind") == "sft":
        return _taught_formula(stage["teacher"]) if stage.get("teacher") else ""
    if "advantage" not in stage:
        return ""
    score, advantage = _score_formula(stage["tasks"]), stage["advantage"]
    told = _Told(stage["overlong"], stage.get("reward_model"), ShapingConfig(**stage["shaping"]))
    baseline = "group mean" if advantage["baseline"] == "mean" else "mean of the others"
    spread = " / group std" if advantage["normalize_by_std"] else ""
    gained = f"A = {f'(r - {baseline})' if spread else f'r - {baseline}'}{spread}"
    return "; ".join([score, *(rule.text for rule in rules_of(told)), gained, *([_own_formula(own)] if own else [])])


def _own_formula(own: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in own["settings"].items())
    return f"loss = {own['kind'].rpartition(':')[2]}({settings})"


def _distill_formula(stage: Mapping[str, Any]) -> str:
    loss, advantage = stage["loss"], stage["advantage"]
    bound = "" if advantage["clip"] is None else f", at most {advantage['clip']:g} either way"
    gate = f"; {loss['correction']} {loss['correction_min']:g} to {loss['correction_max']:g} on trainer / engine"
    teachers = ", ".join(f"{domain}: {teacher}" for domain, teacher in stage["teachers"].items())
    return f"A = log p of the teacher - log p, token by token{bound}{gate * (loss['correction'] != 'none')}; {teachers}"


def _taught_formula(teacher: Mapping[str, Any]) -> str:
    warm, mixed = teacher["temperature"], teacher["cross_entropy_weight"]
    scale = f"{warm:g}^2 x " * (warm != 1)
    beside = f" + {mixed:g} x cross entropy" * (mixed > 0)
    return f"loss = {scale}KL(teacher || policy){f' at temperature {warm:g}' * (warm != 1)}{beside}; {teacher['model']}"


def _score_formula(tasks: Mapping[str, Any]) -> str:
    first, *others = tasks.values()
    score = f"r = {reward_formula(first['reward'])}"
    return score + "".join(f", of {task['domain']} {reward_formula(task['reward'])}" for task in others)


def _pair_formula(sampled: Mapping[str, Any], form: str) -> str:
    rule, verified = sampled["pairs"], any(t["reward"]["kind"] != PREFERENCE for t in sampled["tasks"].values())
    then = f", among equals the score of {sampled['reward_model']}" if verified and sampled["reward_model"] else ""
    tied = f"r(best) - r(worst) <= {rule['least_gap']:g}"
    good = "" if rule["least_chosen"] is None else f" or r(best) < {rule['least_chosen']:g}"
    drawn = f"best and worst of {sampled['num_generations']}, none where {tied}{good}"
    return f"{_score_formula(sampled['tasks'])}{then}; pair = {drawn}; {form}"


def code_switches(tasks: Sequence[Task], texts: Sequence[Sequence[str]], language: str) -> Bool:
    """Tell which responses [P, G] to prompts in the language hold text of a foreign script (section 4.3).

    A prompt that isn't in it may be answered in its own: the rule isn't for it. What a prompt quotes may be quoted.
    """
    quoted = [prompt_text(task.record) for task in tasks]
    return np.array(
        [
            [ruled and foreign_text(t, language, quoted=q) is not None for t in row]
            for q, row, ruled in zip(quoted, texts, (written_in(q, language) for q in quoted), strict=True)
        ]
    )
