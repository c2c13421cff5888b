"""The whole run: everything that `nemo-cascade run` can be told."""

from dataclasses import field
from typing import Literal

from pydantic import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from nemo_cascade.config.base import Fraction, Seed, block
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.environments import EnvironmentProcessesConfig, TaskEnvironmentConfig
from nemo_cascade.config.gate import GateConfig
from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.hygiene import HygieneConfig
from nemo_cascade.config.judge import GenRMConfig
from nemo_cascade.config.logging import LoggingConfig
from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.config.pick import PickConfig
from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.slurm import SlurmConfig
from nemo_cascade.config.stages import Stage
from nemo_cascade.config.verifiers.kinds import Reward


@block
class EnvironmentConfig:
    """Variables of the processes of each role, such as NCCL_IB_HCA; they win over the program's own."""

    policy: dict[str, str] = field(default_factory=dict)
    """Policy ranks."""
    rollout: dict[str, str] = field(default_factory=dict)
    """Engines."""
    scorer: dict[str, str] = field(default_factory=dict)
    """The reward model's ranks."""
    frozen: dict[str, str] = field(default_factory=dict)
    """Ranks that hold teachers."""
    reward: dict[str, str] = field(default_factory=dict)
    """Verifiers."""


@block
class ClusterConfig:
    """Machines and processes."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: gpu where one is present; gpu is refused where none is."""
    num_nodes: PositiveInt = 1
    """Machines."""
    gpus_per_node: NonNegativeInt = 8
    """GPUs of each machine that are ours."""
    policy_threads: PositiveInt = 1
    """CPU threads of each policy rank."""
    rollout_threads: PositiveInt = 1
    """CPU threads of each engine."""
    object_store_mib: PositiveInt = 512
    """Ray's shared memory on each node."""
    ray_address: str | None = None
    """Existing Ray cluster to join; null starts one on this machine."""
    deterministic: bool = False
    """On a GPU: only algorithms that give the same bits every time, in trainer and engine; slower. A CPU has no
    others."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    """Variables by role."""
    join_deadline_s: PositiveFloat = 900.0
    """All `num_nodes` machines must have joined the cluster at `ray_address` by then."""
    actor_start_deadline_s: PositiveFloat = 300.0
    """A role that isn't up by then stops the run."""
    step_deadline_s: PositiveFloat = 3600.0
    """A training step that takes longer stops the run."""


@block
class RewardConfig:
    """The verifier pool."""

    workers: PositiveInt = 2
    """Verifier processes per node. A verdict that hangs holds one until its deadline."""
    deadline_s: PositiveFloat = 10.0
    """Most seconds for one verdict; the worker is killed then and the verdict is an error."""
    deadlines: dict[str, PositiveFloat] = field(
        default_factory=lambda: {
            "code": 180.0,
            "swe_execute": 90.0,
            "swe_write_test": 90.0,
            "swe_regression": 90.0,
            "swe_reproduction": 90.0,
        }
    )
    """Verifier name -> its own deadline in place of `deadline_s`, seconds."""
    max_error_fraction: Fraction = 0.05
    """Largest share of verdicts of a step that may be errors; over it the run stops."""
    memory_mib: PositiveInt = 4096
    """Address space of one verifier process; over it the verdict is an error `memory`."""
    genrm: GenRMConfig = field(default_factory=GenRMConfig)
    """The generative reward model, where a reward is of kind genrm."""


@block
class ScorerConfig:
    """The reward model in service, where a reward is of kind preference."""

    num_replicas: PositiveInt = 1
    """Whole reward models side by side."""
    tensor_parallel_size: PositiveInt = 1
    """Ranks of each."""
    threads: PositiveInt = 1
    """CPU threads of each rank."""
    micro_batch_tokens: PositiveInt = 16384
    """Most tokens of a forward pass."""
    deadline_s: PositiveFloat = 300.0
    """Most seconds for the responses to one prompt; a replica that takes longer stops the run."""


@block
class SuiteConfig(DataFileConfig):
    """One evaluation suite: the same prompts at every stage, in rows as for an RL stage."""

    reward: Reward
    """Who judges, by `kind`, and its settings for this suite; those of RL's tasks don't count here."""
    reward_model: str | None = None
    """Who judges where the reward is of kind preference: a stage of kind reward_model (models are scored on the suite
    from then on, the policy as it stands included), or a model's HF folder."""
    num_prompts: PositiveInt
    """Prompts used: the first so many."""
    samples_per_prompt: PositiveInt = 1
    """avg@k: responses per prompt."""
    score_span: PositiveFloat = 1.0
    """How far the verifier's scores can lie apart: 1 for 0 to 1, 2 for -1 to 1. The gate's tolerance is a share of
    it."""
    environment: TaskEnvironmentConfig = field(default_factory=TaskEnvironmentConfig)
    """What answers the policy: nothing (one turn), or a world that it talks to."""
    mode: Literal["think", "no_think"] = "think"
    """Mode flag behind every user turn."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How answers are drawn."""
    pick: PickConfig | None = None
    """Of a prompt's samples one is picked without its reward, as who may hand in one answer has to, and its score is
    the prompt's; null: all are scored."""

    @property
    def scores_per_prompt(self) -> int:
        """Scores that each prompt has."""
        return self.samples_per_prompt if self.pick is None else 1


@block
class EvaluationConfig:
    """What is measured after each stage."""

    suites: dict[str, SuiteConfig]
    """Domain -> suite."""
    evaluate_start: bool = True
    """Also score the model that the cascade starts from."""


@block
class RunConfig:
    """A whole cascade."""

    name: str
    """Name of the run; its folder is `<runs_dir>/<name>`."""
    runs_dir: str = "runs"
    """Where run folders live."""
    data_dir: str = "${runs_dir}/data"
    """Where prepared data sets live."""
    prepare: Literal[
        "none", "nano", "nano_agent", "nano_blend", "nano_cascade_2", "smol", "smol_stages", "real_text"
    ] = "none"
    """Procedural or packaged data to write under data_dir before the first stage."""
    seed: Seed = 0
    """Seeds everything: initial weights, data order, sampling."""
    resume: Literal["auto", "fork", "never"] = "auto"
    """auto: go on where the folder's run stopped, if the configuration is the same; fork: accept a different one from
    here on, recorded; never: refuse a folder that exists."""
    model: ModelConfig
    """Model."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Layout of the policy."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Number formats."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Machines."""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """What a plan counts with: one accelerator of the cluster and its links."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Engines."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """Verifiers."""
    environments: EnvironmentProcessesConfig = field(default_factory=EnvironmentProcessesConfig)
    """Worlds that a policy talks to."""
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    """Reward model in service."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """Isolation of model-written programs."""
    evaluation: EvaluationConfig
    """Suites."""
    hygiene: HygieneConfig = field(default_factory=HygieneConfig)
    """Disjoint prompts."""
    gate: GateConfig = field(default_factory=GateConfig)
    """Gates."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Sinks."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """The job, where the run is submitted."""
    stages: dict[str, Stage]
    """Stages by name; the order is the cascade's."""
