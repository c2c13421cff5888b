"""Render a run's job script: sbatch's options and the settings from the configuration, the course of the job as is."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from nemo_cascade.config.schema import RunConfig

TEMPLATES = Path(__file__).parent / "templates"
SCRIPT = "job.sbatch"
SOURCED = ("job.sh", "node.sh", "phases.sh", "ports.sh")


@dataclass(frozen=True, slots=True)
class Job:
    """What a job script says beside the configuration.

    Attributes:
        config: the composed run.
        arguments: of `nemo-cascade run`.
        run_folder: the run's, absolute.
        working_folder: where relative paths of the configuration start, absolute.
    """

    config: RunConfig
    arguments: Sequence[str]
    run_folder: Path
    working_folder: Path

    @property
    def folder(self) -> Path:
        """Where the script, and what it needs and leaves, are kept."""
        return self.run_folder / "slurm"

    @property
    def nodes(self) -> int:
        """Nodes of the allocation: the run's, and the judge's."""
        return self.config.cluster.num_nodes + (self.config.slurm.judge is not None)


def render(job: Job) -> str:
    """Return the text of a job's script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["quoted"] = shlex.quote
    judge = job.config.slurm.judge
    return environment.get_template(f"{SCRIPT}.j2").render(
        options=_options(job),
        variables=_variables(job),
        # On bare nodes the Python that submits is the one that runs.
        programs=str(Path(sys.executable).parent) if job.config.slurm.container_image is None else None,
        environment=[f"{name}={value}" for name, value in job.config.slurm.environment.items()],
        container=_container(job) if job.config.slurm.container_runtime == "apptainer" else [],
        on_node=_container(job) if job.config.slurm.container_runtime == "pyxis" else [],
        run=["nemo-cascade", "run", *job.arguments],
        judge=shlex.split(judge.command) if judge is not None else [],
    )


def write(job: Job) -> Path:
    """Write a job's script and what it sources into the run folder; return the script."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCED:
        shutil.copyfile(TEMPLATES / name, job.folder / name)
    script = job.folder / SCRIPT
    script.write_text(render(job), encoding="utf-8")
    return script


def _options(job: Job) -> list[str]:
    slurm, cluster = job.config.slurm, job.config.cluster
    named = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos}
    options = [
        f"--job-name={job.config.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={cluster.gpus_per_node}"] if cluster.gpus_per_node else []),
        "--exclusive",
        "--mem=0",  # all that the node has; some clusters' default is a share for each CPU
        f"--time={slurm.wall_time_minutes}",
        f"--signal=B:USR1@{slurm.stop_before_s}",
        "--requeue",
        "--open-mode=append",
        f"--chdir={job.working_folder}",
        f"--output={job.folder}/job-%j.log",
        *(f"--{name}={value}" for name, value in named.items() if value is not None),
        *slurm.options,
    ]
    # sbatch splits these lines at blanks, except within quotes.
    return [f'"{option}"' if set(option) & set(" \t'") else option for option in options]


def _variables(job: Job) -> Mapping[str, str]:
    slurm, cluster = job.config.slurm, job.config.cluster
    variables: dict[str, str] = {}
    judge = slurm.judge
    if judge is not None:
        variables |= {"JUDGE_PORT": str(judge.port), "JUDGE_DEADLINE_S": f"{judge.start_deadline_s:.0f}"}
    return variables | {
        "RUN_FOLDER": str(job.run_folder),
        "SLURM_FOLDER": str(job.folder),
        "GPUS_PER_NODE": str(cluster.gpus_per_node),
        "OBJECT_STORE_MIB": str(cluster.object_store_mib),
        "START_DEADLINE_S": f"{cluster.join_deadline_s:.0f}",
        "STOP_BEFORE_S": str(slurm.stop_before_s),
        "MAX_RESTARTS": str(slurm.max_restarts),
    }


def _container(job: Job) -> list[str]:
    """Return what puts a step into the container: options of srun for pyxis, words before the command for apptainer."""
    slurm = job.config.slurm
    if slurm.container_image is None:
        return []
    # The run folder's parent: the folder itself, with what other starts left in it, and the data beside it.
    own = dict.fromkeys([job.working_folder, job.run_folder.parent])
    mounts = [*(f"{folder}:{folder}" for folder in own), *slurm.container_mounts]
    if slurm.container_runtime == "pyxis":
        return [
            f"--container-image={slurm.container_image}",
            f"--container-mounts={','.join(mounts)}",
            f"--container-workdir={job.working_folder}",
            "--no-container-mount-home",
        ]
    gpus = ["--nv"] if job.config.cluster.gpus_per_node else []
    binds = [word for mount in mounts for word in ("--bind", mount)]
    return ["apptainer", "exec", *gpus, *binds, "--pwd", str(job.working_folder), slurm.container_image]
