"""The actor groups of a run: started when first needed, kept across stages, torn down together.

Processes take seconds to import what they work with. Whoever asks for the engines will ask for verifiers and policy,
too: these two come up beside them, and whoever needs one waits for the rest of it.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Member
from nemo_cascade.actors.frozen import FrozenGroup
from nemo_cascade.actors.genrm import GenRMGroup
from nemo_cascade.actors.judges import Judges
from nemo_cascade.actors.reward import RewardGroup
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.actors.scorer import ScorerGroup
from nemo_cascade.actors.sync import SyncReport, sync_one, sync_weights
from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.checks.host import resolved_device
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import StageBase, TrainedStage
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.losses.objective import Objective, OwnObjective
from nemo_cascade.training.setup import FrozenSetup, TrainerSetup, Training

log = logging.getLogger(__name__)


class Roles:
    """Policy, rollout, reward and scorer actors of one run, and whose weights each of them holds.

    Use as a context manager: leaving it stops every process that was started, on every exit path.

    Args:
        config: the run's configuration.
        log_folder: where the actors' own logs are kept.

    Attributes:
        asked: the prompts of suites, by all that they depend on: every stage is asked the same.
    """

    def __init__(self, config: RunConfig, log_folder: Path) -> None:
        self.config, self.log_folder = config, log_folder
        self.asked: dict[str, PromptSet] = {}
        self.cluster: Cluster | None = None
        self._policy: TrainerGroup | None = None
        self._rollout: RolloutGroup | None = None
        self._reward: RewardGroup | None = None
        self._scorer: ScorerGroup | None = None
        self._genrm: dict[tuple[str, int], GenRMGroup] = {}
        self._environments: dict[str, EnvironmentHosts] = {}
        self._policy_holds: str | None = None
        self._rollout_holds: str | None = None
        self._rollout_version = 0
        self._starter = ThreadPoolExecutor(max_workers=2, thread_name_prefix="role-start")
        self._coming: dict[str, Future[Any]] = {}

    def __enter__(self) -> Roles:
        self.cluster = Cluster(self.config.cluster, self.log_folder)
        self.cluster.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for judge in self._genrm.values():
            judge.close()
        for hosts in self._environments.values():
            hosts.close()
        wait(self._coming.values())
        self._starter.shutdown()
        coming = [start.result() for start in self._coming.values() if start.exception() is None]
        for actors in (self._rollout, self._reward, self._scorer, self._policy, *coming):
            if actors is not None:
                actors.close()
        if self.cluster is not None:
            self.cluster.stop()

    def policy(self, setup: TrainerSetup) -> TrainerGroup:
        """Return the policy ranks with a fresh model, optimizer and schedule as `setup` says.

        Ranks of another layout are let go first.
        """
        group = self._policy_group(setup.parallel)
        group.setup(setup)
        self._policy_holds = None
        return group

    def rollout(self, model_path: Path) -> RolloutGroup:
        """Return the engines; the first call starts them from `model_path`."""
        if self._rollout is None:
            assert self.cluster is not None, "enter Roles first"
            self._start_beside(model_path)
            if self._policy is not None:
                self._policy.give_memory_back()
            trained = [stage.trained() for stage in self.config.stages.values()]
            self._rollout = RolloutGroup(
                self.cluster,
                self.config.rollout,
                str(model_path),
                self.config.seed,
                self.config.model.family,
                routed_experts=any(stage is not None and stage.replays_experts() for stage in trained),
            )
            self._rollout_holds = str(model_path)
        return self._rollout

    def reward(self, tokenizer_path: Path) -> RewardGroup:
        """Return the verifier workers."""
        if self._reward is None:
            self._reward = self._come("reward") or self._new_reward(tokenizer_path)
        return self._reward

    def scorer(self, reward_model: Path, tokenizer_path: Path) -> ScorerGroup:
        """Return the reward model's replicas, holding that model; the tokenizer decodes the policy's responses."""
        if self._scorer is None:
            assert self.cluster is not None, "enter Roles first"
            config = self.config
            self._scorer = ScorerGroup(self.cluster, config.scorer, config.rollout, config.model, config.precision)
        self._scorer.load(reward_model, tokenizer_path)
        return self._scorer

    def frozen(self, setup: FrozenSetup) -> FrozenGroup:
        """Return ranks that hold frozen models, to be entered: leaving ends them, for nobody else needs their room."""
        assert self.cluster is not None, "enter Roles first"
        return FrozenGroup(self.cluster, setup)

    def judges(self, tokenizer_path: Path, group_size: int, reward_model: Path | None) -> Judges:
        """Return who judges `group_size` responses to each prompt: the verifiers, and reward models where in use."""
        scorer = None if reward_model is None else self.scorer(reward_model, tokenizer_path)
        return Judges(self.reward(tokenizer_path), scorer, group_size, self._compares(tokenizer_path, group_size))

    def _compares(self, tokenizer_path: Path, group_size: int) -> GenRMGroup | None:
        """Return who compares groups of this size; none where no server is named or there is nothing to compare."""
        if not self.config.reward.genrm.url or group_size < 2:
            return None
        place = (str(tokenizer_path), group_size)
        if place not in self._genrm:
            self._genrm[place] = GenRMGroup(self.config.reward.genrm, tokenizer_path, group_size)
        return self._genrm[place]

    def environments(self, tokenizer_path: Path) -> EnvironmentHosts:
        """Return the processes of environments; they start where some are played in."""
        place = load_tokenizer(tokenizer_path).key  # of all stages, most often
        if place not in self._environments:
            hosts = EnvironmentHosts(self.config.environments, str(tokenizer_path), self.config.sandbox)
            self._environments[place] = hosts
        return self._environments[place]

    def sync(self, version: int, *, verify: bool) -> SyncReport:
        """Hand the policy's weights to the engines, as weight version `version`."""
        assert self._policy is not None, "sync needs a policy"
        assert self._rollout is not None, "sync needs engines"
        report = sync_weights(self._policy, self._rollout, version, self.config.rollout.weight_sync, verify=verify)
        self._rollout_holds, self._rollout_version = self._policy_holds, version
        return report

    def restore(self, engine: Member, version: int) -> None:
        """Give a new engine the policy's present weights, which are `version`."""
        assert self._policy is not None, "weights are a policy's"
        assert self._rollout is not None, "an engine is one of them"
        sync_one(self._policy, self._rollout, engine, version, self.config.rollout.weight_sync)

    @property
    def rollout_version(self) -> int:
        """The weight version that the engines were given last; 0: what they started from."""
        return self._rollout_version

    def make_room(self, stage: StageBase) -> None:
        """Let engines go that share their GPUs with a stage which trains without them.

        They start again where they are asked for, as those of a run that is resumed there.
        """
        trained, shared = stage.trained(), self.config.rollout.placement == "colocated"
        if trained is None or trained.draws_responses() or not shared or resolved_device(self.config.cluster) == "cpu":
            return
        if self._rollout is not None:
            self._rollout.close()
        self._rollout, self._rollout_holds, self._rollout_version = None, None, 0

    def policy_now_holds(self, hf_folder: Path) -> None:
        """Record that the policy's weights are those of `hf_folder` (just loaded or just exported)."""
        self._policy_holds = str(hf_folder)

    def forget(self) -> None:
        """Take nothing for granted: the weights in a folder that policy or engines may hold have been replaced."""
        self._policy_holds = self._rollout_holds = None

    def engines_with(self, hf_folder: Path, version: int) -> RolloutGroup:
        """Return the engines holding the weights of `hf_folder`, by a sync where they hold others.

        The version is `version`, or the next one where the engines are at or beyond that.
        """
        rollout = self.rollout(hf_folder)
        if self._rollout_holds != str(hf_folder):
            if self._policy_holds != str(hf_folder):
                self.policy(forward_setup(self.config, hf_folder))
                self.policy_now_holds(hf_folder)
            verify = self.config.rollout.weight_sync.verify != "off"
            self.sync(max(version, self._rollout_version + 1), verify=verify)
        return rollout

    def _policy_group(self, parallel: ParallelConfig) -> TrainerGroup:
        self._policy = self._policy or self._come("policy")
        if self._policy is not None and self._policy.parallel != parallel:
            self._policy.close()
            self._policy = None
        if self._policy is None:
            self._policy = self._new_policy(parallel)
        return self._policy

    def _new_policy(self, parallel: ParallelConfig) -> TrainerGroup:
        assert self.cluster is not None, "enter Roles first"
        return TrainerGroup(self.cluster, parallel)

    def _new_reward(self, tokenizer_path: Path) -> RewardGroup:
        assert self.cluster is not None, "enter Roles first"
        return RewardGroup(self.cluster, self.config.reward, str(tokenizer_path), self.config.sandbox)

    def _start_beside(self, model_path: Path) -> None:
        """Begin to start verifiers and policy, unless they are there."""
        if self._reward is None:
            self._coming["reward"] = self._starter.submit(self._new_reward, model_path)
        if self._policy is None:
            self._coming["policy"] = self._starter.submit(self._new_policy, self.config.parallel)

    def _come(self, role: str) -> Any | None:
        """Wait for a role that is being started, and raise what its start raised; None where none is."""
        coming = self._coming.pop(role, None)
        return None if coming is None else coming.result()


def stage_setup(
    config: RunConfig, stage: TrainedStage, hf_folder: Path, total_steps: int, objective: Objective
) -> TrainerSetup:
    """Return what the policy ranks need to know to train `stage` from `hf_folder`.

    Args:
        config: the run.
        stage: what is trained.
        hf_folder: the weights that it starts from.
        total_steps: optimizer steps of the stage.
        objective: the stage's; where the user has named another, that takes its place.
    """
    if (own := stage.own_objective()) is not None:
        objective = OwnObjective(own.kind, own.settings, objective)
    return TrainerSetup(
        hf_path=str(hf_folder),
        model=config.model,
        parallel=stage.layout(config),
        precision=config.precision,
        seq_length=stage.seq_length,
        seed=config.seed,
        training=Training(objective, stage.optimizer, total_steps, stage.router),
    )


def forward_setup(config: RunConfig, hf_folder: Path) -> TrainerSetup:
    """Return a setup that only serves weights: for evaluating a finished stage in a resumed run."""
    lengths = [trained.seq_length for stage in config.stages.values() if (trained := stage.trained()) is not None]
    return TrainerSetup(
        hf_path=str(hf_folder),
        model=config.model,
        parallel=config.parallel,
        precision=config.precision,
        seq_length=lengths[0] if lengths else config.rollout.max_model_len,
        seed=config.seed,
        training=None,
    )
