"""The pool's side of its processes: one fork server, and the workers forked from it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.fork_server import MAX_MESSAGE
from nemo_cascade.types import Verdict

# Verifiers must give the same verdict in every process: one thread, one hash seed.
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass(slots=True)
class Task:
    """One verification on its way. `sink` receives (key, verdict) exactly once."""

    task_id: int
    key: Any
    verifier: str
    frame: bytes
    sink: deque[tuple[Any, Verdict]]
    deadline_s: float
    started: float = 0.0
    crashes: int = 0


@dataclass(slots=True, eq=False)
class Worker:
    """A verifier process. It may be given tasks once `pidfd` is there and until `retiring` is set.

    `ended` is set when its channel says so; the fork server reports how later.
    """

    channel: socket.socket
    pid: int = 0
    pidfd: int = -1
    task: Task | None = None
    killed_for: str | None = None
    retiring: bool = False
    ended: bool = False
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)

    @property
    def idle(self) -> bool:
        """Whether it can take a task now."""
        return self.pidfd >= 0 and self.task is None and not self.retiring and self.killed_for is None

    @property
    def starting(self) -> bool:
        """Whether it was ordered and isn't there yet."""
        return self.pidfd < 0 and not self.retiring

    def kill(self, cause: str) -> None:
        """End the process at once. The fork server reports its end later; `cause` says whose doing it was."""
        self.killed_for = cause
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself a moment ago
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def read(self) -> bool:
        """Take in what has arrived, without blocking; False at end of stream."""
        while True:
            try:
                data = self.channel.recv(1 << 16)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not data:
                return False
            self.received += data
            if len(data) < 1 << 16:
                return True

    def write(self) -> None:
        """Send as much of the pending frame as the socket takes."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.channel.send(self.unsent) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.unsent = memoryview(b"")  # it died: its end is reported by the fork server

    def close(self) -> None:
        """Free the descriptors."""
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class ForkServer:
    """Starts the fork server process and talks to it. Orders are answered later, through `messages`."""

    def __init__(self, config: RewardConfig, sandbox: SandboxConfig) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            sys.executable,
            "-m",
            "nemo_cascade.rewards.pool.fork_server",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        told = {"memory_mib": config.memory_mib, "sandbox": asdict(sandbox)}
        self._order({"op": "hello", "path": sys.path, **told})

    def load(self, name: str, path: str, options: Mapping[str, Any]) -> None:
        """Order a verifier to be constructed; workers forked from then on have it."""
        self._order({"op": "load", "name": name, "path": path, "options": dict(options)})

    def fork(self, ticket: int) -> socket.socket:
        """Order a worker; returns our end of its channel, non-blocking. `ticket` comes back with its process id."""
        ours, theirs = socket.socketpair()
        self._order({"op": "fork", "ticket": ticket}, [theirs.fileno()])
        theirs.close()
        ours.setblocking(False)
        return ours

    def message(self) -> tuple[dict[str, Any], list[int]] | None:
        """Read one message and the descriptors that came with it; None when the fork server has died."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.control, MAX_MESSAGE, 1)
        except ConnectionResetError:
            return None
        return (json.loads(data), list(descriptors)) if data else None

    def close(self, grace_s: float = 5.0) -> int:
        """End the fork server and with it all workers; returns its exit status."""
        self.control.close()
        try:
            return self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the kernel kills its children with it
            return self._process.wait()

    def _order(self, order: dict[str, Any], descriptors: list[int] | None = None) -> None:
        # If it has died, the next read of the control socket says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self.control, [json.dumps(order).encode()], descriptors or [])
