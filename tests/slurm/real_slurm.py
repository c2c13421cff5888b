"""A real Slurm on this machine: munge, one controller and several node names, all of it under one scratch folder.

Only what was started here is ended here, by process id.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODES = ("n1", "n2", "n3", "n4")
# The system's programs may lie where only root's PATH leads.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
FirstJobId={job}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=30
NodeName=n[1-4] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=n[1-4] Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str | None:
    """Return why there can be no Slurm here; None if there can."""
    if missing := [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "Slurm's daemons are started as root here"


@dataclass
class Slurm:
    """A running Slurm.

    Attributes:
        folder: of its files.
        environment: what its commands need.
        daemons: name (`munged`, `slurmctld`, `n1`, ...) -> process.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, tools: Path) -> None:
        """Start all daemons and wait until every node is idle; jobs find the programs in `tools` before others."""
        controller, first = _free_ports(1 + len(NODES))
        config = self.folder / "slurm.conf"
        last = first + len(NODES) - 1
        # Jobs of one machine are told apart by their numbers: another Slurm of these tests may run beside this one.
        numbers = {"controller": controller, "first": first, "last": last, "job": 1 + 1000 * (os.getpid() % 60000)}
        config.write_text(CONFIGURATION.format(folder=self.folder, **numbers))
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        self.environment = {**os.environ, "PATH": f"{tools}:{PATH}", "SLURM_CONF": str(config)}
        files = {name: f"--{name}-file={self.folder}/munge.{suffix}" for name, suffix in
                 (("key", "key"), ("pid", "pid"), ("log", "log"), ("seed", "seed"))}  # fmt: skip
        self._daemon("munged", "--force", "--foreground", f"--socket={self.folder}/munge.sock", *files.values())
        self._daemon("slurmctld", "-D", "-f", str(config))
        for node in NODES:
            self.start_node(node)
        self.wait_until(lambda: self("sinfo", "-h", "-o", "%t %D") == f"idle {len(NODES)}", 60, "nodes are not idle")

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._daemon("slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"], name=node)

    def kill_node(self, node: str) -> None:
        """End a node as a power cut would: its daemon, its steps and all they started."""
        daemon = psutil.Process(self.daemons.pop(node).pid)
        family = [daemon]
        for step in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended while it was looked at
                if step.name() == "slurmstepd" and f"SLURMD_NODENAME={node}" in _environment_below(step):
                    family += [step, *step.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, 10)

    def stop(self) -> None:
        """End all jobs, then all daemons."""
        if "slurmctld" in self.daemons:
            subprocess.run(["scancel", "--full", "--user=root"], env=self.environment, timeout=60)
            self.wait_until(lambda: not self("squeue", "-h"), 60, "jobs do not end")
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def __call__(self, *command: str) -> str:
        """Run one of Slurm's commands; return what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """Return what Slurm says of a job: key -> value."""
        words = self("scontrol", "show", "job", job, "--oneliner").split(" ")
        return dict(word.split("=", 1) for word in words if "=" in word)

    def cascade(self, *arguments: str) -> str:
        """Run `nemo-cascade` with this Slurm; return what it prints."""
        return self(sys.executable, "-m", "nemo_cascade", *arguments)

    def submit(self, runs: Path, name: str, *overrides: str) -> str:
        """Submit a run into a container that has this machine's programs; return the job's number."""
        # The image's PATH is its own.
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        container = ["slurm=apptainer", "slurm.container_image=image.sif", f"slurm.environment={{PATH: '{path}'}}"]
        told = self.cascade("submit", f"name={name}", f"runs_dir={runs}", *container, *overrides)
        return told.split()[1].rstrip(":")

    def head_of(self, job: str) -> str:
        """Return the first of a job's nodes, on which the run is."""
        return self("scontrol", "show", "hostnames", self.job(job)["NodeList"]).split()[0]

    def let_start(self, job: str) -> None:
        """Spare a requeued job the two minutes that Slurm has it wait."""
        self.wait_until(lambda: self.job(job)["JobState"] == "PENDING", 300, "the job is not requeued")
        self("scontrol", "update", f"JobId={job}", "StartTime=now")

    def wait_until(self, happened: object, timeout_s: float, otherwise: str) -> None:
        """Look twice a second until it has happened."""
        end = time.monotonic() + timeout_s
        while not happened():  # type: ignore[operator]
            assert time.monotonic() < end, otherwise
            time.sleep(0.5)

    def _daemon(self, program: str, *options: str, name: str = "") -> None:
        path = shutil.which(program, path=PATH)
        assert path is not None
        log = (self.folder / f"{name or program}.out").open("ab")
        self.daemons[name or program] = subprocess.Popen(
            [path, *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment
        )
        if program == "munged":
            self.wait_until((self.folder / "munge.sock").exists, 20, "munged does not listen")


def _environment_below(step: psutil.Process) -> list[str]:
    return [
        f"{name}={value}"
        for child in step.children(recursive=True)
        for name, value in child.environ().items()
    ]  # fmt: skip


def _free_ports(count: int) -> tuple[int, int]:
    """Return a port for the controller and the first of as many as there are nodes, all free and in a row."""
    for base in range(16800, 32000, count):
        with_sockets = []
        try:
            with_sockets = [socket.create_server(("127.0.0.1", base + i)) for i in range(count)]
        except OSError:
            continue
        finally:
            for held in with_sockets:
                held.close()
        return base, base + 1
    raise AssertionError("no free ports for Slurm")
