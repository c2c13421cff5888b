"""The kinds of stages that there are, by the `kind` of their configs."""

from nemo_cascade.config.stages.base import StageBase
from nemo_cascade.stages.distill import prepare_distill, run_distill
from nemo_cascade.stages.grpo import prepare_grpo, run_grpo
from nemo_cascade.stages.kind import StageKind
from nemo_cascade.stages.merge import prepare_merge, run_merge
from nemo_cascade.stages.preference import prepare_preference, run_preference
from nemo_cascade.stages.reward_model import prepare_reward_model, run_reward_model
from nemo_cascade.stages.sft import prepare_sft, run_sft

KINDS = {
    "sft": StageKind(prepare_sft, run_sft),
    "reward_model": StageKind(prepare_reward_model, run_reward_model),
    "grpo": StageKind(prepare_grpo, run_grpo),
    "preference": StageKind(prepare_preference, run_preference),
    "distill": StageKind(prepare_distill, run_distill),
    "merge": StageKind(prepare_merge, run_merge),
}
"""Kind -> the half of it that works; of a user's own, its config class says who that is."""


def kind_of(stage: StageBase) -> StageKind:
    """Return who prepares and trains a stage."""
    return KINDS.get(stage.kind) or type(stage).work()
