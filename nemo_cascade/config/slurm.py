"""The job that `nemo-cascade submit` hands to Slurm. Its nodes are `cluster.num_nodes` and `cluster.gpus_per_node`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig

Port = Annotated[int, Field(ge=1024, le=65535)]

# What the job script sets by itself, from other keys or because it relies on it.
_OWN_OPTIONS = (
    "job-name", "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "exclusive", "mem", "time", "signal", "requeue",
    "no-requeue", "open-mode", "output", "error", "chdir", "partition", "account", "qos", "array", "wrap",
)  # fmt: skip
_SECONDS_FOR_A_SAVE = 60


@block
class JudgeServerConfig:
    """A judge model that is served in the same allocation, on one more node, and that `reward.genrm` then asks."""

    command: str
    """What serves it, such as `vllm serve /models/judge --host 0.0.0.0 --port 8000`."""
    port: Port = 8000
    """Where its API listens; /v1/models must answer there before the run starts."""
    start_deadline_s: PositiveFloat = 1800.0
    """A judge that doesn't answer by then ends the job."""


@block
class SlurmConfig:
    """The job of a run that is submitted."""

    partition: str | None = None
    """Partition; null: the cluster's default."""
    account: str | None = None
    """Account that pays; null: your default."""
    qos: str | None = None
    """Quality of service; null: your default."""
    wall_time_minutes: PositiveInt = 240
    """Length of one job; a run that needs longer is requeued and goes on."""
    stop_before_s: PositiveInt = 600
    """So long before the wall time a run that still computes is asked to save and pause at its step's end; Slurm may
    ask up to a minute earlier."""
    max_restarts: NonNegativeInt = 20
    """Requeues of one job, after which it has to be submitted again."""
    container_image: str | None = None
    """Squashfs or registry image that everything runs in; null: the bare nodes, with the Python that submits."""
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """What starts it: Slurm's plugin for enroot, or apptainer."""
    container_mounts: list[str] = field(default_factory=list)
    """HOST:CONTAINER[:ro], beside the working folder and runs_dir, which are always mounted."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of every process of the job, such as NCCL_IB_HCA."""
    options: list[str] = field(default_factory=list)
    """Further options of sbatch, quoted: slurm.options=['--reservation=maintenance']."""
    judge: JudgeServerConfig | None = None
    """A judge model on a node of its own."""


def slurm_violations(config: RunConfig) -> Iterator[CascadeError]:
    """Yield everything that keeps a well-typed configuration from being a job."""
    slurm = config.slurm
    if slurm.stop_before_s + _SECONDS_FOR_A_SAVE > slurm.wall_time_minutes * 60:
        yield CascadeError(
            "the job would be stopped before it could do anything",
            value=f"slurm.stop_before_s={slurm.stop_before_s}",
            limit=f"{_SECONDS_FOR_A_SAVE} s less than slurm.wall_time_minutes={slurm.wall_time_minutes}",
            mend="a larger slurm.stop_before_s or slurm.time_limit",
        )
    if config.cluster.ray_address is not None:
        value = f"cluster.ray_address={config.cluster.ray_address}"
        yield CascadeError("the job starts a Ray of its own", value=value, limit="null", mend="leave it out")
    for mount in slurm.container_mounts:
        if not re.fullmatch(r"/[^:,]*:/[^:,]*(:(ro|rw))?", mount):
            value = f"slurm.container_mounts: {mount}"
            yield CascadeError(
                "this is no mount",
                value=value,
                limit="/HOST:/CONTAINER or /HOST:/CONTAINER:ro",
                mend="write /HOST:/CONTAINER",
            )
    if slurm.container_mounts and slurm.container_image is None:
        value, mend = "slurm.container_image=null", "slurm.container_image=IMAGE"
        yield CascadeError("mounts need a container", value=value, mend=mend)
    for name in slurm.environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            yield CascadeError(
                "this is no variable",
                value=f"slurm.environment: {name}",
                limit="letters, digits and _",
                mend="name it by letters, digits and _",
            )
    for option in slurm.options:
        parts = re.fullmatch(r"--([a-z][a-z-]*)(=.*)?", option)
        if parts is None:
            yield CascadeError(
                "this is no option of sbatch",
                value=f"slurm.options: {option}",
                limit="--name=value",
                mend="write it as --name=value",
            )
        elif parts[1] in _OWN_OPTIONS:
            mend = f"there is a key for it, or the job relies on its own: nemo-cascade explain slurm ({parts[1]})"
            yield CascadeError("the job sets this option itself", value=f"slurm.options: {option}", mend=mend)
    yield from _judge(config)


def _judge(config: RunConfig) -> Iterator[CascadeError]:
    judge = config.slurm.judge
    if judge is None:
        return
    if config.reward.genrm.url:
        value = f"reward.genrm.url={config.reward.genrm.url}"
        yield CascadeError(
            "slurm.judge is who reward.genrm asks", value=value, limit="empty", mend="reward.genrm.url=''"
        )
    if not config.reward.genrm.model:
        mend = "reward.genrm.model=NAME, as its server calls it"
        yield CascadeError("a judge is served, but none is asked for by name", value="reward.genrm.model=''", mend=mend)
    if not judge.command.strip() or "\n" in judge.command:
        yield CascadeError(
            "this is no command",
            value=f"slurm.judge.command={judge.command!r}",
            limit="one line",
            mend="one line without a line's end; several commands go into a script",
        )
