"""What a stage is given, and how it starts, checkpoints and resumes: the same for every kind."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import TrainedStage
from nemo_cascade.config.stages.measure import LOWER_IS_BETTER
from nemo_cascade.errors import CheckpointError, PausedError
from nemo_cascade.losses.cross_entropy import SftLoss
from nemo_cascade.stages.pause import TimeLeft, job_end
from nemo_cascade.stages.roles import Roles, stage_setup
from nemo_cascade.telemetry.metrics import MetricsLog, read_metrics
from nemo_cascade.training.checkpoints.folders import CheckpointStore

log = logging.getLogger(__name__)

# Weight versions of different stages never meet: stage i counts from i * this.
VERSIONS_PER_STAGE = 10_000_000
# The last of them are for the evaluations behind its steps, of the stage's model and of others (`Roles.engines_with`
# counts on).
_EVALUATIONS_PER_STAGE = 1_000


def evaluation_version(index: int) -> int:
    """Return the first weight version for evaluations behind the steps of the stage that comes `index`th."""
    return (index + 1) * VERSIONS_PER_STAGE - _EVALUATIONS_PER_STAGE


@dataclass(frozen=True, slots=True)
class StageContext:
    """A stage's surroundings.

    Attributes:
        config: the whole run's configuration.
        name: the stage's name, as in `config.stages` and the ledger.
        index: its place in the cascade, from 1.
        folder: where everything it writes goes.
        parent_hf: HF folder of the weights it starts from.
        parent_checkpoint: the parent's last training checkpoint, for `carry.optimizer`.
        data_folder: where tokenised data is kept between runs.
        roles: actors.
        reward_models: HF folders of the reward models that were trained so far, by stage.
        models: HF folders of what the cascade began with (`start`) and of its stages so far that changed the policy.
        record: appends an event to the ledger (`Ledger.append`).
        watch: is told the stage's name, each step and its line of metrics; None: nobody watches.
    """

    config: RunConfig
    name: str
    index: int
    folder: Path
    parent_hf: Path
    parent_checkpoint: Path | None
    data_folder: Path
    roles: Roles
    reward_models: Mapping[str, Path]
    models: Mapping[str, Path]
    record: Callable[..., object]
    watch: Callable[[str, int, Mapping[str, Any]], None] | None = None

    @property
    def hf_folder(self) -> Path:
        """The stage's result: HF safetensors, config and tokenizer."""
        return self.folder / "hf"

    def reward_model(self, reference: str | None) -> Path | None:
        """Return the folder of a reward model, given as the stage that trained it or as its path."""
        return None if reference is None else self.reward_models.get(reference, Path(reference))

    def version(self, step: int) -> int:
        """Return the weight version after `step` rollout batches of this stage."""
        return self.index * VERSIONS_PER_STAGE + step

    @contextmanager
    def metrics(self, steps_done: int) -> Iterator[MetricsLog]:
        """Open metrics.jsonl behind the steps that are done: later lines will be made again."""
        watch = None if self.watch is None else partial(self.watch, self.name)
        metrics = MetricsLog(self.folder / "metrics.jsonl", watch=watch)
        metrics.truncate_from(steps_done + 1)
        yield metrics


class StageCheckpoints:
    """Save, find and prune a stage's training checkpoints."""

    def __init__(self, context: StageContext, stage: TrainedStage, total_steps: int) -> None:
        self.context, self.stage, self.total_steps = context, stage, total_steps
        self.store = CheckpointStore(context.folder / "checkpoints", stage.keep_checkpoints, stage.checkpoint_every)
        self.time = TimeLeft(job_end())
        self.resumed_from: Path | None = None

    def resume(
        self, policy: TrainerGroup, needs: Sequence[str] = (), same: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, dict[str, Any]]:
        """Load the newest complete checkpoint into the policy; return (steps done, its state).

        Args:
            policy: what is loaded into.
            needs: what the state must hold for the stage to go on as if undisturbed.
            same: what it must hold, and be what it is now: what the stage is trained on.

        Raises:
            CheckpointError: the state lacks some of it: a version of another form wrote the checkpoint; or the stage's
                data are others than they were.
        """
        found = self.store.newest()
        for name in self.store.damaged:
            self.context.record("checkpoint_refused", stage=self.context.name, reason=name)
        if found is None:
            self._carry(policy)
            self.time.restart()
            return 0, {}
        step, path = found
        state = policy.load_checkpoint(str(path))
        self.resumed_from = path
        needs = [*needs, *same]
        if missing := [name for name in needs if name not in state]:
            raise CheckpointError(
                f"the checkpoint lacks {' and '.join(missing)}, so the stage can't go on as if undisturbed",
                value=f"{path}, which holds {', '.join(sorted(state))}",
                limit=f"one that holds {', '.join(needs)}",
                mend="finish the run with the version that began it (provenance.yaml), remove the stage's "
                "checkpoints/ to train the stage anew, or name=ANOTHER",
            )
        if changed := [name for name, now in same.items() if state[name] != now]:
            name = changed[0]
            raise CheckpointError(
                f"the stage's {name} changed since the checkpoint",
                value=f"{same[name]}, at step {step} {state[name]}",
                mend="restore the files, remove the stage's checkpoints/ to train it anew, or name=ANOTHER",
            )
        self.context.record("stage_resumed", stage=self.context.name, step=step, checkpoint=path.name)
        log.info("%s resumes at step %d of %d", self.context.name, step, self.total_steps)
        self.time.restart()
        return step, state

    def due(self, steps_done: int) -> bool:
        """Tell whether a checkpoint belongs behind this step."""
        return steps_done % self.stage.checkpoint_every == 0 or steps_done == self.total_steps

    def save_if_due(self, policy: TrainerGroup, steps_done: int, state: dict[str, Any], *, last: bool = False) -> None:
        """Write a checkpoint where one is wanted: see `wanted` and `save`."""
        if self.wanted(steps_done, last=last):
            self.save(policy, steps_done, state)

    def wanted(self, steps_done: int, *, last: bool = False) -> bool:
        """Tell at a step's end whether a checkpoint belongs here.

        One does every `checkpoint_every` steps, at the end, also where that comes early (`last`), and before a pause.
        """
        self.time.step_done()
        if last or self.due(steps_done) or self.time.reason_to_pause():
            return True
        self.time.restart()
        return False

    def save(
        self,
        policy: TrainerGroup,
        steps_done: int,
        state: dict[str, Any],
        beside: Callable[[Path], object] | None = None,
    ) -> None:
        """Write a checkpoint.

        Args:
            policy: whose.
            steps_done: behind which step.
            state: what the stage goes on from, JSON-like.
            beside: is given the folder, and writes what else the stage goes on from.

        Raises:
            PausedError: the job's time doesn't hold two more steps, or a pause was asked for; the step is saved.
        """
        pause = self.time.reason_to_pause()
        self.store.best = self._best()
        with self.store.saving(steps_done) as folder:
            policy.save_checkpoint(str(folder), state)
            if beside is not None:
                beside(folder)
        self.time.saved()
        if pause:
            raise PausedError(f"{self.context.name}, step {steps_done} of {self.total_steps}", pause)

    def _best(self) -> int | None:
        """Return the step whose checkpoint is the best by the stage's metric, of two the earlier one; None: none is."""
        metric = self.stage.keep_best
        if metric is None:
            return None
        lines = {int(line["step"]): line.get(metric) for line in read_metrics(self.context.folder / "metrics.jsonl")}
        known = {step: value for step, value in lines.items() if value is not None and self.due(step)}
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        return max(known, key=lambda step: (sign * known[step], -step)) if known else None

    def _carry(self, policy: TrainerGroup) -> None:
        """Take over the parent's optimizer where asked for: its last checkpoint has the same weights as its hf/."""
        if not self.stage.carry.optimizer:
            return
        if self.context.parent_checkpoint is None:
            self.context.record("optimizer_fresh", stage=self.context.name, reason="the parent's weights are a merge")
            return
        policy.load_checkpoint(str(self.context.parent_checkpoint))
        self.context.record("optimizer_carried", stage=self.context.name)


def finish(context: StageContext, policy: TrainerGroup) -> None:
    """Export the trained weights and note who holds them."""
    policy.export_hf(str(context.hf_folder))
    context.roles.policy_now_holds(context.hf_folder)


def export_checkpoint(context: StageContext, stage: TrainedStage, checkpoint: Path, target: Path) -> None:
    """Write the weights of one of a trained stage's checkpoints as an HF folder; the policy holds them afterwards."""
    last = max(int(path.name.removeprefix("step_")) for path in checkpoint.parent.glob("step_*"))
    updates = last * stage.size().updates_per_step
    policy = context.roles.policy(stage_setup(context.config, stage, context.parent_hf, updates, SftLoss()))
    policy.load_checkpoint(str(checkpoint))
    policy.export_hf(str(target))
    context.roles.policy_now_holds(target)
