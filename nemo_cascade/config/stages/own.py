"""A kind of stage of a user's own, named by where its config class is: `kind: my_stage.py:Name`.

The class is a block below `StageBase`, as the shipped kinds' are, and says by `work` who trains it.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import PydanticCustomError

from nemo_cascade.config.plugins import anchored, is_plugin, load_plugin
from nemo_cascade.config.stages.base import StageBase
from nemo_cascade.errors import CascadeError

OWN_STAGE = "own_stage"
"""Type of the complaint that a stage of a user's own is wrong; `own_stage` tells in which ways."""


def own_kind(given: Any) -> str | None:
    """Return the kind of a stage's plain data if it is a user's own; None for a shipped kind, or none at all."""
    kind = given.get("kind") if isinstance(given, Mapping) else None
    return kind if isinstance(kind, str) and is_plugin(kind) else None


def own_block(kind: str) -> type[StageBase]:
    """Import the config class of a kind.

    Raises:
        CascadeError: it can't be imported, or is no block of a stage.
    """
    found: Any = load_plugin(anchored(kind))
    # A class that isn't declared by itself has the fields of its base only: its own would be taken for unknown keys.
    if not (isinstance(found, type) and issubclass(found, StageBase) and "__pydantic_fields__" in vars(found)):
        limit = "a class below StageBase or PolicyStage (nemo_cascade.config.stages.base), declared by @block"
        raise CascadeError(
            "this is no kind of stage", value=kind, limit=limit, mend="derive it from TrainedStage or PolicyStage"
        )
    block: type[StageBase] = found
    return block


def own_stage(kind: str, given: Mapping[str, Any]) -> StageBase:
    """Convert plain data to a user's own stage.

    Raises:
        CascadeError: see `own_block`.
        pydantic.ValidationError: every unknown key, missing key and value out of bounds.
    """
    # JSON, as everywhere: only there does strict mode take mappings for blocks.
    stage: StageBase = TypeAdapter(own_block(kind)).validate_json(json.dumps(given, default=str), strict=True)
    return stage


def shipped_or_own(given: Any, shipped: ValidatorFunctionWrapHandler) -> Any:
    """Validate a stage of any kind."""
    kind = own_kind(given)
    if kind is None:
        return shipped(given)
    try:
        return own_stage(kind, given)
    except (CascadeError, ValidationError) as error:
        raise PydanticCustomError(OWN_STAGE, "a stage that fits its own kind") from error
