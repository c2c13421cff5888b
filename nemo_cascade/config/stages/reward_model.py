"""A reward model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from nemo_cascade.config.base import Fraction, block
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.stages.base import DataUse, ModelUse, Problems, StageSize, TrainedStage
from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.config.stages.reward_loss import RewardLossConfig
from nemo_cascade.config.stages.sft import epochs_size
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig


@block
class RewardModelStage(TrainedStage):
    """A reward model: a score of pairs by Bradley-Terry (arXiv 2512.13607, section 4.2.2), or rated attributes by
    regression (arXiv 2406.11704, section 3.1).

    It stands beside the policy's line: the next stage starts from the model that this one's predecessor left.
    """

    kind: Literal["reward_model"] = "reward_model"
    """Stage kind."""
    data: PairDataConfig
    """Pairs, or rated replies."""
    loss: RewardLossConfig = field(default_factory=RewardLossConfig)
    """What it is trained by."""
    model_path: str | None = None
    """HF folder that it starts from, a language model or a reward model; null: the policy as it stands."""
    parallel: ParallelConfig | None = None
    """Layout of its ranks, which a larger model needs; null: the policy's."""
    global_batch_size: PositiveInt
    """Pairs, or rated replies, per optimizer step over all data-parallel ranks."""
    epochs: PositiveInt = 1
    """Passes over the data."""
    max_steps: PositiveInt | None = None
    """Stop after so many steps even if the epochs aren't over."""
    share_prompts: bool = False
    """Both responses of a pair attend to one copy of their prompt, as in a stage of kind preference."""
    min_accuracy: Fraction = 0.5
    """Least share of hold-out pairs that it must order right; one that is shown to order fewer breaks its promise.
    regression: the pairs are those of held-out replies to one prompt whose weighted ratings differ."""

    moves_policy: ClassVar[bool] = False

    def reads(self) -> Iterator[DataUse]:
        """Yield the pairs that are trained on and those that are measured on."""
        held = f"{self.data.holdout_path} {self.data.holdout_split or ''}".rstrip()
        yield DataUse("data", self.data, "pairs", "preference", f"held out: {held}")
        yield DataUse("data", DataFileConfig(path=self.data.holdout_path), "holdout", path_key="holdout_path")

    def models(self) -> Iterator[ModelUse]:
        """Yield the model that it starts from, where that isn't the policy."""
        if self.model_path is not None:
            yield ModelUse("model_path", self.model_path, "start")

    def size(self) -> StageSize:
        """Return how large the stage is."""
        of = "replies" if self.loss.form == "regression" else "pairs"
        return epochs_size(self.epochs, self.max_steps, self.global_batch_size, of, self.seq_length)

    def layout(self, run: RunConfig) -> ParallelConfig:
        """Return the layout of its ranks: its own, or the policy's."""
        return self.parallel or run.parallel

    def promises(self) -> bool:
        """Tell whether a gate has anything to check: its accuracy, always."""
        return True

    def promised(self) -> str:
        """Return its promise in words."""
        return f"accuracy >= {self.min_accuracy:g}"

    def metrics_every(self) -> dict[str, int]:
        """Return the metrics that checkpoints can be kept by, and the steps between their values."""
        return {"holdout_accuracy": self.checkpoint_every}

    def shares_prompts(self) -> bool:
        """Tell whether the responses to a prompt attend to one copy of it."""
        return self.share_prompts

    def problems(self, run: RunConfig, name: str) -> Problems:
        """Yield what is wrong with its promise and its attributes."""
        key, attributes = f"stages.{name}.loss.attributes", self.loss.attributes
        if self.loss.form == "regression" and not any(attributes.values()):
            mend = f"{key}={{helpfulness: 1.0}}, or another form of loss"
            yield CascadeError("a regression needs an attribute that counts", value=f"{key}={attributes}", mend=mend)
        if self.loss.form != "regression" and attributes:
            value = f"stages.{name}.loss.form={self.loss.form}, {key}={attributes}"
            yield CascadeError("pairs have no attributes", value=value, mend=f"{key}={{}}, or form=regression")
        if self.promise.improve:
            yield CascadeError(
                "a reward model changes no domain's score",
                value=f"stages.{name}.promise.improve={self.promise.improve}",
                limit="min_accuracy is what it is judged by",
                mend=f"stages.{name}.promise.improve=[]",
            )
