"""Environments: what a task's turns are played in.

A shipped one is a short name of where it is; a user's own is named by where it is, `my_file.py:Name`.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from nemo_cascade.config.base import block
from nemo_cascade.config.plugins import completed_settings, is_plugin, loadable
from nemo_cascade.types import EnvironmentUse

ENVIRONMENTS: Mapping[str, str] = {
    "single_turn": "nemo_cascade.environments.single_turn:SingleTurn",
    "workplace": "nemo_cascade.environments.workplace.assistant:WorkplaceAssistant",
    "python": "nemo_cascade.environments.python_tool:PythonTool",
    "swe_agent": "nemo_cascade.environments.swe.agent:SweAgent",
    "code_feedback": "nemo_cascade.environments.code_feedback:CodeFeedback",
    "rubric_chat": "nemo_cascade.environments.rubric_chat:RubricChat",
    "nano_lookup": "nemo_cascade.nano.lookup:LookupEnvironment",
}
"""Name -> module and class."""


def _known(name: str) -> str:
    if name not in ENVIRONMENTS and not is_plugin(name):
        raise ValueError(f"one of {', '.join(ENVIRONMENTS)}, or your own as my_file.py:Name")
    return loadable(name) if is_plugin(name) else name


@block
class TaskEnvironmentConfig:
    """What answers the policy when it is asked about these prompts."""

    kind: Annotated[str, AfterValidator(_known)] = "single_turn"
    """single_turn: nothing, the verifier judges its answer; workplace: 27 tools over five tables, which are
    judged; python: a session that runs its code, the verifier judges its last turn; swe_agent: a repository
    with a shell, an editor and hidden tests, which judge what is submitted; code_feedback: rounds in which a failing
    visible test is told, hidden tests judge; rubric_chat: a user's follow-ups, a judge model with a rubric at the end;
    nano_lookup: a tool that reads numbers, for the nano data; or your own,
    `my_package.my_module:Name` or `my_file.py:Name` (README, Adding)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its constructor takes by name."""
    max_turns: PositiveInt = 8
    """Turns of the policy, at most; what goes on after that counts as truncated. So does what leaves the next turn no
    room in rollout.max_model_len."""

    step_deadline_s: PositiveFloat | None = None
    """Of one step of the environment; null: reward.deadline_s. What takes longer is ended, and the sample is an error
    `timeout`."""
    deadline_s: PositiveFloat = 86400.0
    """Of a whole sample, by the clock, from when its batch is asked: one that would be asked once more after it is an
    error `deadline`."""

    @field_validator("settings")
    @classmethod
    def _fit(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = info.data.get("kind")
        return given if kind is None else completed_settings(ENVIRONMENTS.get(kind, kind), given, 1)

    @property
    def use(self) -> EnvironmentUse:
        """The same, as a task carries it."""
        return EnvironmentUse(self.kind, self.settings, self.max_turns, self.step_deadline_s, self.deadline_s)


@block
class EnvironmentProcessesConfig:
    """Processes that environments of several turns live in; what hangs or crashes there is ended with its process."""

    processes: PositiveInt = 2
    """How many; each holds the samples that are its, and has the memory for that."""
    threads: PositiveInt = 16
    """Steps at a time in each: most of one's time is waiting for a service or for the sandbox."""
    memory_mib: PositiveInt = 4096
    """Address space of each."""
    turns: Literal["lock_step", "streaming"] = "lock_step"
    """lock_step: no sample of a batch is asked its next question before all have had an answer to their last; the same
    weights, tasks and seed give the same bits. streaming: each goes on as soon as its environment has answered, so that
    engines don't wait for slow tools; what stands beside it in an engine's batch, and so its last bits, are then a
    matter of time."""
