"""What all stages have, and what a kind of stage says of itself: the only questions that others ask a stage.

A kind answers them in its own file, so that nobody else needs to know which kinds there are:

    reads       its data, file by file
    models      the models that it needs beside its parent's weights
    judged      the tasks that its responses are judged on
    size        steps, batch, tokens and lengths, as a plan tells them
    layout      of its ranks
    problems    what makes it impossible to run
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.gate import GateOverride
from nemo_cascade.config.model import OptimizerConfig, ParallelConfig
from nemo_cascade.config.plugins import anchored
from nemo_cascade.config.router import RouterConfig
from nemo_cascade.config.stages.measure import MeasureConfig, Metric
from nemo_cascade.config.stages.own_objective import OwnObjectiveConfig
from nemo_cascade.config.stages.tasks import PromptsConfig, TaskConfig
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig

Problems = Iterator[CascadeError]
START = "start"
"""Names the model that the cascade starts from, among its stages."""


@dataclass(frozen=True, slots=True)
class DataUse:
    """One set that a stage reads.

    Attributes:
        key: its place below the stage, `data.sources.0`.
        source: the set.
        role: sft and pairs are trained on, prompts are answered and the answers trained on; holdout is measured on;
            screen is only compared with.
        domain: that it counts for in a plan.
        use: what is done with it, in a few words.
        screened: files whose prompts were screened out of it.
        screen_ngram: words in a row that the screening compared; 0: none was done.
        path_key: the key of its path.
    """

    key: str
    source: DataFileConfig
    role: Literal["sft", "pairs", "holdout", "prompts", "screen"]
    domain: str = ""
    use: str = ""
    screened: tuple[str, ...] = ()
    screen_ngram: int = 0
    path_key: str = "path"


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A model that a stage needs beside its parent's weights.

    Attributes:
        key: the field that names it.
        reference: an HF folder, or the stage that makes it (of merged ones also `start`).
        role: start: what its ranks load; reward: judges responses; merged: its weights go into the stage's; teacher:
            what it says of the policy's responses, or of the data, is what is learned.
    """

    key: str
    reference: str
    role: Literal["start", "reward", "merged", "teacher"]


@dataclass(frozen=True, slots=True)
class StageSize:
    """How large a stage is, as far as its configuration says.

    Attributes:
        steps: lines of its metrics at most; None where the data say it.
        updates_per_step: optimizer steps of a line.
        planned: its steps in words.
        batch: its batch in words.
        tokens_per_step: most tokens that a step can hold (prompts of rollouts not counted).
        length: longest sample, or response, in tokens.
    """

    steps: int | None
    planned: str
    batch: str
    tokens_per_step: int
    length: int
    updates_per_step: int = 1

    @property
    def updates(self) -> int | None:
        """Optimizer steps of the stage at most; None where the data say it."""
        return None if self.steps is None else self.steps * self.updates_per_step


@block
class CarryConfig:
    """What a stage takes over from its parent beside the weights."""

    optimizer: bool = False
    """Keep Adam's moments and its count of steps (same layout and kind only). The learning rate doesn't go on: it is
    this stage's own schedule from its first step, warm-up included."""


@block
class PromiseConfig:
    """What a stage promises; the gate checks it."""

    improve: list[str] = field(default_factory=list)
    """Domains whose score must rise significantly over the parent's."""
    hold: list[str] = field(default_factory=lambda: ["*"])
    """Domains that may not fall by more than the gate's tolerance; `*`: all others."""


@block
class StageBase:
    """What all stages have."""

    parent: str | None = None
    """Whose model it starts from: an earlier stage, or `start`; null: the stage before it. One that names another
    begins a branch, perhaps only to be a teacher or to be merged; the stages behind it go on from the branch, unless
    they name their own parent."""
    promise: PromiseConfig = field(default_factory=PromiseConfig)
    """What the gate checks afterwards."""
    gate: GateOverride = field(default_factory=GateOverride)
    """What this stage sets differently from `gate`."""

    kind: Annotated[str, AfterValidator(anchored)]
    """Stage kind; or your own, `my_package.my_module:Name` or `my_file.py:Name` (README, Adding)."""
    moves_policy: ClassVar[bool] = True
    """Whether the next stage starts from this one's weights; a reward model stands beside that line."""

    @classmethod
    def work(cls) -> Any:
        """Return who prepares and trains a stage of a user's own kind: a `StageKind` (stages/kind.py).

        It is imported only here, for what it needs is too heavy for reading a configuration. The shipped kinds stand in
        stages/kinds.py.
        """
        raise NotImplementedError

    def reads(self) -> Iterator[DataUse]:
        """Yield every set that the stage reads."""
        raise NotImplementedError

    def models(self) -> Iterator[ModelUse]:
        """Yield the models that it needs beside its parent's weights."""
        yield from ()

    def judged(self) -> Mapping[str, TaskConfig]:
        """Return the tasks that its responses are judged on, by their keys."""
        return {}

    def asked(self) -> Mapping[str, PromptsConfig]:
        """Return the prompts that it has answered, judged or not, by their keys."""
        return self.judged()

    def responses_per_prompt(self) -> int:
        """Return how many responses to a prompt its judges see together."""
        return 0

    def preference_model(self) -> tuple[bool, str | None]:
        """Return whether a reward model judges its responses, and which one is named."""
        return False, None

    def size(self) -> StageSize:
        """Return how large the stage is."""
        raise NotImplementedError

    def layout(self, run: RunConfig) -> ParallelConfig:
        """Return the layout of its ranks."""
        return run.parallel

    def teacher_layout(self, run: RunConfig) -> ParallelConfig | None:
        """Return the layout of the ranks that hold its teachers; None: it has none."""
        return None

    def promises(self) -> bool:
        """Tell whether a gate has anything to check."""
        return bool(self.promise.improve or self.promise.hold)

    def promised(self) -> str:
        """Return its promise in words."""
        improve, hold = ", ".join(self.promise.improve), ", ".join(self.promise.hold)
        return f"improves {improve or 'nothing'}, holds {hold or 'nothing'}"

    def selection_prompts(self) -> int | None:
        """Return of how many prompts its checkpoints are scored to find its result; None: its last model is that."""
        return None

    def trained(self) -> TrainedStage | None:
        """Return the stage if its ranks train; None: it makes its model of others."""
        return None

    def problems(self, run: RunConfig, name: str) -> Problems:
        """Yield what makes the stage impossible to run as part of `run`."""
        raise NotImplementedError


def policies_by_then(run: RunConfig, name: str, uses: Iterable[ModelUse]) -> Problems:
    """Yield the stages among the models that `name` uses which make no policy before it."""
    stages = list(run.stages)
    before = [stage for stage in stages[: stages.index(name)] if run.stages[stage].moves_policy]
    for use in uses:
        if use.reference in run.stages and use.reference not in before:
            key, limit = f"stages.{name}.{use.key}", ", ".join([START, *before, "or an HF folder"])
            mend = f"{key}={[START, *before][-1]}"
            yield CascadeError("no policy by then", value=f"{key}={use.reference}", limit=limit, mend=mend)


@block
class TrainedStage(StageBase):
    """What the stages have whose ranks train."""

    optimizer: OptimizerConfig
    """AdamW and schedule."""
    seq_length: PositiveInt
    """Length of a packed micro-batch, tokens."""
    router: RouterConfig = field(default_factory=RouterConfig)
    """Treatment of the routers of a mixture of experts."""
    checkpoint_every: PositiveInt = 50
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: PositiveInt = 2
    """Newest complete checkpoints that stay on disk."""
    keep_best: Metric | None = None
    """Metric of metrics.jsonl by which the best checkpoint stays, too, however old; null: none does. measured_mean: of
    `measure`; validation_loss: of SFT's `validation`; reward_mean: of RL; holdout_accuracy: of a reward model."""
    carry: CarryConfig = field(default_factory=CarryConfig)
    """What is taken over from the parent."""

    def trained(self) -> TrainedStage:
        """Return the stage: its ranks train."""
        return self

    def measures(self) -> MeasureConfig | None:
        """Return what is scored between its steps; None: its model answers no prompts."""
        return None

    def metrics_every(self) -> dict[str, int]:
        """Return the metrics that checkpoints can be kept by, and the steps between their values."""
        measure = self.measures()
        return {} if measure is None or not measure.suites else {"measured_mean": measure.every}

    def own_objective(self) -> OwnObjectiveConfig | None:
        """Return what a user has it train for in place of its own loss; None: it trains for that."""
        return None

    def steps_ahead(self) -> int:
        """Return how many steps before they train its responses are drawn, while others train; 0: in turns."""
        return 0

    def draws_responses(self) -> bool:
        """Tell whether engines are at work while it trains: on its prompts, or on suites that are scored meanwhile."""
        measure = self.measures()
        return bool(self.asked()) or (measure is not None and bool(measure.suites))

    def keeps_reference(self) -> bool:
        """Tell whether its ranks hold a frozen copy of the model that it starts from."""
        return False

    def replays_experts(self) -> bool:
        """Tell whether its routers replay the engines' choices of experts, which these then have to return."""
        return False

    def shares_prompts(self) -> bool:
        """Tell whether documents of its packs attend to one copy of what they begin with."""
        return False


@block
class PolicyStage(TrainedStage):
    """What the stages have that change the policy."""

    objective: OwnObjectiveConfig | None = None
    """A loss of your own, in place of the stage's; it reads what the stage's batches hold (README, Adding)."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    """Suites that are scored between its steps; a kind of your own does it by stages/between/measuring.py."""
    select: Literal["last", "best"] = "last"
    """Which model is the stage's result: the last, or the best of its kept checkpoints (`keep_checkpoints` of them)."""
    select_prompts: PositiveInt = 64
    """best: prompts of each suite of the domains in `promise.improve` (of all, where none is) that the checkpoints are
    scored on: the first so many. The gate judges the best one on the whole suites."""

    def own_objective(self) -> OwnObjectiveConfig | None:
        """Return what a user has it train for in place of its own loss."""
        return self.objective

    def measures(self) -> MeasureConfig | None:
        """Return what is scored between its steps."""
        return self.measure

    def selection_prompts(self) -> int | None:
        """Return of how many prompts its checkpoints are scored to find its result; None: its last model is that."""
        return self.select_prompts if self.select == "best" else None
