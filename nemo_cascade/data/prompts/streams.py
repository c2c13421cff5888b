"""What an RL stage draws from: all prompts alike or each task's by its share, in epochs or by difficulty."""

from collections.abc import Mapping
from typing import Any, Protocol

from nemo_cascade.config.stages.rollout_rules import CurriculumConfig, PromptFilterConfig
from nemo_cascade.config.stages.tasks import PromptsConfig
from nemo_cascade.data.prompts.curriculum import CurriculumStream
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.prompt_stream import PromptStream
from nemo_cascade.data.prompts.shares import SharedStream
from nemo_cascade.types import Task


class Stream(Protocol):
    """Draws different prompts, batch by batch."""

    def at(self, step: int) -> None:
        """Tell which step prompts are drawn for."""

    def take(self, n: int) -> list[Task]:
        """Draw the next n prompts, all different."""

    def passed_over(self, task_id: str) -> None:
        """Tell that a prompt's group is thrown away."""

    def note(self, task_id: str, *, solved_all: bool, solved_none: bool) -> None:
        """Remember how a prompt's rollouts came out."""

    def state(self) -> dict[str, Any]:
        """Return what it goes on from, JSON-like."""

    def metrics(self) -> dict[str, Any]:
        """Return what a step's log line says of it."""


class Drawn(Protocol):
    """What says how prompts are drawn; a stage's config has it."""

    @property
    def tasks(self) -> Mapping[str, PromptsConfig]:
        """Name -> prompts."""

    @property
    def prompts_per_step(self) -> int:
        """Prompts of a batch."""

    @property
    def prompt_filter(self) -> PromptFilterConfig:
        """Which prompts an epoch leaves out."""

    @property
    def curriculum(self) -> CurriculumConfig:
        """Whether easy ones come first."""


def open_stream(prompts: PromptSet, stage: Drawn, seed: int, state: Mapping[str, Any] | None) -> Stream:
    """Return a stage's stream, from wherever its state says it stands.

    Raises:
        DataError: the state is of other prompts, or a curriculum has no pass rates.
    """
    if all(task.weight is None for task in stage.tasks.values()):
        return _open(prompts, stage, seed, stage.prompts_per_step, state)
    total = sum(task.weight or 0.0 for task in stage.tasks.values())
    shares = {name: (task.weight or 0.0) / total for name, task in stage.tasks.items()}
    states = (state or {}).get("streams", {})
    streams = {
        name: _open(part, stage, seed, int(stage.prompts_per_step * shares[name]), states.get(name))
        for name, part in prompts.parts.items()
    }
    return SharedStream(streams, shares, prompts.parts, (state or {}).get("drawn"))


def _open(
    prompts: PromptSet, stage: Drawn, seed: int, least: int, state: Mapping[str, Any] | None
) -> PromptStream | CurriculumStream:
    if stage.curriculum.enabled:
        return CurriculumStream(prompts, seed, stage.curriculum, state)
    return PromptStream(prompts, seed, stage.prompt_filter, max(1, least), state)
