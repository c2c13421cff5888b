"""Environments: what a task's turns are played in.

A shipped one is a short name of where it is; a user's own is named by where it is, `my_file.py:Name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import AfterValidator, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from nemo_cascade.config.base import block
from nemo_cascade.config.plugins import anchored, completed_settings, is_plugin, load_plugin
from nemo_cascade.errors import CascadeError
from nemo_cascade.types import EnvironmentUse

ENVIRONMENTS: Mapping[str, str] = {"single_turn": "nemo_cascade.environments.single_turn:SingleTurn"}
"""Name -> module and class."""


def _known(name: str) -> str:
    if name not in ENVIRONMENTS and not is_plugin(name):
        raise ValueError(f"one of {', '.join(ENVIRONMENTS)}, or your own as my_file.py:Name")
    place = anchored(name)
    if is_plugin(place):
        try:
            load_plugin(place)
        except CascadeError as problem:
            raise PydanticCustomError("refused", "refused", {"problem": problem}) from problem
    return place


@block
class TaskEnvironmentConfig:
    """What answers the policy when it is asked about these prompts."""

    kind: Annotated[str, AfterValidator(_known)] = "single_turn"
    """single_turn: nothing, the verifier judges its answer; or your own, `my_package.my_module:Name` or
    `my_file.py:Name` (README, Adding)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its constructor takes by name."""
    max_turns: PositiveInt = 8
    """Turns of the policy, at most; what goes on after that counts as truncated. So does what leaves the next turn no
    room in rollout.max_model_len."""

    @field_validator("settings")
    @classmethod
    def _fit(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = info.data.get("kind")
        return given if kind is None else completed_settings(ENVIRONMENTS.get(kind, kind), given, 1)

    @property
    def use(self) -> EnvironmentUse:
        """The same, as a task carries it."""
        return EnvironmentUse(self.kind, self.settings, self.max_turns)
