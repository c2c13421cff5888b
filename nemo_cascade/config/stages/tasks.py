"""Tasks of an RL stage: prompts, and who judges the responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from nemo_cascade.config.base import Fraction, Seed, block
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.environments import TaskEnvironmentConfig
from nemo_cascade.config.verifiers.kinds import GENRM, PREFERENCE, Reward
from nemo_cascade.errors import CascadeError


@block
class RepairPromptConfig:
    """Prompts of SWE RL made of each row's issue and files (arXiv 2512.13607, 4.7.1; data/prompts/swe_rows.py)."""

    enabled: bool = False
    """Build prompts from `problem`, `files` and the golden patch, up to the task's max_tokens; off: rows hold them."""
    kinds: list[Literal["ground_truth", "mixed"]] = field(default_factory=lambda: ["ground_truth", "mixed"])
    """ground_truth: the files that the golden patch changes; mixed: noise files among them; left out if none fits."""
    max_files: PositiveInt = 5
    """Noise files are added up to so many files in all."""
    seed: Seed = 0
    """Of the draw of noise files and of the files' order."""


@block
class ComparisonPromptConfig:
    """Prompts of a generative reward model's training, made of two responses and people's word on them
    (arXiv 2512.20848, section 3.3.1; data/prompts/comparison_rows.py).
    """

    enabled: bool = False
    """Build prompts from `messages`, `response_1` and `response_2`; off: rows hold them."""
    swapped: bool = True
    """Ask each comparison also with the responses' positions exchanged."""


@block
class ProfileConfig:
    """Pass rates of the task's prompts by a named model, and which prompts they let in."""

    path: str | None = None
    """File that `nemo-cascade profile prompts` wrote; null: none is read."""
    samples: PositiveInt | None = None
    """Measure them, by so many samples of each prompt, with the model that the stage starts from, before its first
    step; null: they aren't measured. With neither, every prompt is taken."""
    at_least: Fraction = 0.0
    """Prompts with a lower pass rate are left out."""
    at_most: Fraction = 1.0
    """Prompts with a higher pass rate are left out (arXiv 2505.16400: 6 of 16)."""
    drop_solved: bool = False
    """Leave out prompts that every sample passed (arXiv 2512.20848, section 3.2)."""

    @model_validator(mode="after")
    def _once(self) -> ProfileConfig:
        if self.path is not None and self.samples is not None:
            raise ValueError("path (a profile that is there) or samples (one that is measured), not both")
        unknown = self.path is None and self.samples is None
        if unknown and (self.at_least, self.at_most, self.drop_solved) != (0.0, 1.0, False):
            raise ValueError("pass rates aren't known: give path or samples")
        return self


@block
class PromptsConfig(DataFileConfig):
    """Prompts that the policy is asked: rows with `messages`, ending in a user's turn."""

    domain: str
    """Domain that they are of."""
    environment: TaskEnvironmentConfig = field(default_factory=TaskEnvironmentConfig)
    """What answers the policy: nothing (one turn), or a world that it talks to."""
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
    agents: list[str] = field(default_factory=list)
    """Take only rows whose `agent_ref` names one of these (NeMo Gym's files hold rows of many environments, one task
    each here); empty: all rows."""
    weight: PositiveFloat | None = None
    """Share of each batch that this task's prompts have, in proportion to the other tasks' weights; then all tasks of
    the stage have one. null: every prompt of the stage is as likely as any other."""
    repair: RepairPromptConfig = field(default_factory=RepairPromptConfig)
    """Builds repair prompts from files."""

    def selection(self) -> str:
        """Return in words which rows are taken and how prompts are built of them."""
        most, repair = self.max_tokens, self.repair
        lengths = f", {self.min_tokens} to {most or 'any'} tokens" * bool(most or self.min_tokens)
        built = f", built ({', '.join(repair.kinds)}) from issue and <= {repair.max_files} files"
        picked = f", rows of {', '.join(self.agents)}" * bool(self.agents)
        return picked + self.passed() + lengths + built * repair.enabled

    def passed(self) -> str:
        """Return in words which pass rates let a prompt in."""
        return ""

    def problems(self, key: str, model_length: int, response: int, response_key: str) -> Iterator[CascadeError]:
        """Yield what is wrong with the lengths of its prompts.

        Args:
            key: where it stands.
            model_length: rollout.max_model_len.
            response: tokens of the longest response.
            response_key: who says so.
        """
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            value, most = f"{key}.min_tokens={self.min_tokens}", f"max_tokens={self.max_tokens}"
            yield CascadeError(
                "no prompt is long enough and short enough",
                value=value,
                limit=most,
                mend=f"{key}.min_tokens={self.max_tokens}",
            )
        if self.repair.enabled and self.max_tokens is None:
            way = f"{key}.max_tokens=16384"
            yield CascadeError(
                "repair prompts are built up to a length that isn't given", value=f"{key}.repair", mend=way
            )
        if self.repair.enabled and not self.repair.kinds:
            yield CascadeError(
                "no kind of repair prompt",
                value=f"{key}.repair.kinds=[]",
                limit="ground_truth, mixed",
                mend=f"{key}.repair.kinds=[ground_truth,mixed]",
            )
        longest, room = self.max_tokens or 0, model_length - response
        if longest > room > 0:
            value, limit = f"{key}.max_tokens={longest}", f"{room} = rollout.max_model_len - {response_key}"
            mend = f"rollout.max_model_len={longest + response}"
            yield CascadeError(
                "the longest prompt leaves no room for its response", value=value, limit=limit, mend=mend
            )


@block
class TaskConfig(PromptsConfig):
    """Prompts with their verifier, and what the verifier needs in their rows."""

    reward: Reward
    """Who judges the responses, by `kind`, and its settings for this task; a suite has its own."""
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    """Which prompts to take by how often a model solves them."""
    comparison: ComparisonPromptConfig = field(default_factory=ComparisonPromptConfig)
    """Builds comparisons of two responses."""

    @property
    def is_profiled(self) -> bool:
        """Whether the pass rates of its prompts are known, or will be when the stage starts."""
        return self.profile.path is not None or self.profile.samples is not None

    def problems(self, key: str, model_length: int, response: int, response_key: str) -> Iterator[CascadeError]:
        """Yield what is wrong with the lengths of its prompts, and with who measures their pass rates."""
        yield from super().problems(key, model_length, response, response_key)
        if self.profile.samples is not None and self.reward.kind in (PREFERENCE, GENRM):
            yield CascadeError(
                "a reward model's scores don't tell which prompts are solved",
                value=f"{key}: profile.samples={self.profile.samples} with reward.kind={self.reward.kind}",
                mend=f"{key}.profile.path, pass rates by a verifier, or no profile",
            )

    def passed(self) -> str:
        """Return in words which pass rates let a prompt in."""
        rule = self.profile
        bounds = f"{rule.at_least:g} to {rule.at_most:g}" + ", none solved" * rule.drop_solved
        return f", pass rate {bounds}" * self.is_profiled


def share_problems(prefix: str, tasks: Mapping[str, PromptsConfig]) -> Iterator[CascadeError]:
    """Yield the tasks of a stage that have no share of its batches where others have one."""
    weights = {name: task.weight for name, task in tasks.items()}
    if unweighted := [name for name, weight in weights.items() if weight is None and any(weights.values())]:
        value, mend = f"{prefix}.tasks: {', '.join(unweighted)}", "a weight for every task of the stage, or for none"
        yield CascadeError("a task has no share of the batch where others have one", value=value, mend=mend)
