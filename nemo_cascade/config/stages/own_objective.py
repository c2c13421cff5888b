"""A loss of a user's own, named by where its class is: `objective: {kind: my_loss.py:Name, settings: {...}}`."""

from dataclasses import field
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo, field_validator

from nemo_cascade.config.base import block
from nemo_cascade.config.plugins import completed_settings, is_plugin, loadable


def _known(name: str) -> str:
    if not is_plugin(name):
        raise ValueError("your own, as my_file.py:Name; the stage's own loss is chosen by its `loss`")
    return loadable(name)


@block
class OwnObjectiveConfig:
    """What a stage trains for, in place of its own loss."""

    kind: Annotated[str, AfterValidator(_known)]
    """A class below `nemo_cascade.losses.objective.Objective`: `my_package.my_module:Name` or `my_file.py:Name`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its constructor takes by name."""

    @field_validator("settings")
    @classmethod
    def _fit(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = info.data.get("kind")
        return given if kind is None else completed_settings(kind, given, 0)
