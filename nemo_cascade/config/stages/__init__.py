"""The kinds of stages; one file each, which says everything about its kind that needs no tensor."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.reward_model import RewardModelStage
from nemo_cascade.config.stages.sft import SftStage

Stage = Annotated[SftStage | RewardModelStage | GrpoStage, Field(discriminator="kind")]
