"""The kinds of stages; one file each, which says everything about its kind that needs no tensor."""

from typing import Annotated

from pydantic import Field, WrapValidator

from nemo_cascade.config.stages.distill import DistillStage
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.merge import MergeStage
from nemo_cascade.config.stages.own import shipped_or_own
from nemo_cascade.config.stages.preference import PreferenceStage
from nemo_cascade.config.stages.reward_model import RewardModelStage
from nemo_cascade.config.stages.sft import SftStage

Shipped = Annotated[
    SftStage | RewardModelStage | GrpoStage | PreferenceStage | DistillStage | MergeStage, Field(discriminator="kind")
]
"""The registry: a kind's config class; its other half has a line in stages/kinds.py."""
Stage = Annotated[Shipped, WrapValidator(shipped_or_own)]
"""A stage of a shipped kind, or of a user's own (own.py)."""
