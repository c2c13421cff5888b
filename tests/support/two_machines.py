"""Two machines on one: namespaces of their own for processes, mounts and network, a Ray node in each, a cable between.

Only root can make them. They share this machine's files, but not /dev/shm and not Ray's folder.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ADDRESS = {"a": "10.213.0.1", "b": "10.213.0.2"}
PORT = 6379
# Ray's node gives up a head that it can't reach after this; its workers end with it.
LOST_S = 10
RAY = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(LOST_S),
    # A raylet whose link is cut hears no end of its connection; it has to ask.
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
}


class Machine:
    """Namespaces that live as long as their first process; with it, all others in them end."""

    def __init__(self, name: str, ray_folder: Path) -> None:
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        mounts = f"mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs {ray_folder} && ip link set lo up"
        self.name = name
        self._outer = subprocess.Popen(
            [*unshare, "sh", "-c", f"{mounts} && echo up && exec sleep 100000"], stdout=subprocess.PIPE, text=True
        )
        if self._outer.stdout.readline().strip() != "up":
            raise OSError("namespaces for processes, mounts and network can't be made here")
        self.pid = psutil.Process(self._outer.pid).children()[0].pid
        self._namespace = os.readlink(f"/proc/{self.pid}/ns/pid")

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs `words` on this machine."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", *words]

    def run(self, *words: str) -> None:
        """Run a command here to its end."""
        done = subprocess.run(self.command(*words), env={**os.environ, **RAY}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def start_ray(self, *options: str) -> None:
        """Start a Ray node, which gives itself up after thirty seconds: little on a machine with others at work."""
        ray = str(Path(sys.executable).with_name("ray"))
        for _ in range(2):
            try:
                return self.run(ray, "start", *options)
            except AssertionError:
                self.run(ray, "stop", "--force")
        return self.run(ray, "start", *options)

    def workers(self, driver: str) -> list[str]:
        """Return the processes here that belong to a run and not to Ray itself; `driver` is in its driver's words."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            try:
                inside = os.readlink(f"/proc/{process.pid}/ns/pid") == self._namespace
            except OSError:
                continue
            actor = line.startswith("ray::") and "Actor" in line  # ray::IDLE and ray::DashboardAgent are Ray's own
            if inside and (actor or driver in line):
                found.append(f"{self.name}: {process.pid} {line[:60]}")
        return found

    def end(self) -> None:
        """End everything on it."""
        self._outer.kill()
        self._outer.wait()


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Yield two machines with a cable between them and a Ray node on each, the head on the first.

    Raises:
        OSError, subprocess.CalledProcessError: this machine doesn't let them be made.
    """
    ray_folder = Path("/tmp") / f"two-{os.getpid()}"  # Ray's sockets lie below it: the path must be short
    ray_folder.mkdir()
    made: list[Machine] = []
    try:
        for name in ADDRESS:
            made.append(Machine(name, ray_folder))
        a, b = made
        cable = ["ip", "link", "add", f"a{a.pid}", "netns", str(a.pid), "type", "veth"]
        subprocess.run([*cable, "peer", "name", f"b{b.pid}", "netns", str(b.pid)], check=True)
        for machine in made:
            card = f"{machine.name}{machine.pid}"
            machine.run("ip", "address", "add", f"{ADDRESS[machine.name]}/24", "dev", card)
            machine.run("ip", "link", "set", card, "up")
        common = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
        head = [f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={ray_folder}"]
        a.start_ray("--head", f"--node-ip-address={ADDRESS['a']}", *head, *common)
        b.start_ray(f"--address={ADDRESS['a']}:{PORT}", f"--node-ip-address={ADDRESS['b']}", *common)
        yield a, b
    finally:
        for machine in made:
            machine.end()
        ray_folder.rmdir()
