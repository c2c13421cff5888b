"""The process that verifier workers are forked from: one thread, verifiers already imported, nothing else.

A replacement for a killed worker is thus ready in milliseconds, and no process that holds CUDA, Ray or torch threads
is ever forked. It is started fresh (exec), obeys one control socket and dies with its parent.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from pydantic import TypeAdapter

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.errors import CascadeError
from nemo_cascade.rewards import sandboxed
from nemo_cascade.rewards.pool import worker
from nemo_cascade.rewards.registry import build_verifier
from nemo_cascade.rewards.verifier import Verifier
from nemo_cascade.sandbox.inside.foreign import Attempt

MAX_MESSAGE = 1 << 16


class _ForkServer:
    """Serves `load` and `fork` orders, reports the ends of its children."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._verifiers: dict[str, Verifier] = {}
        self._children: set[int] = set()
        self._memory_mib = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Serve until the control socket closes, then kill and reap all children."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        open_ = True
        while open_:
            for descriptor, _ in poll.poll():
                if descriptor == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                else:
                    open_ = self._obey()
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)  # our own unreaped child: its pid can't belong to anyone else
        while self._children:
            self._reap(block=True)

    def _obey(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 1)
        except ConnectionResetError:  # the pool has gone before it read all that it was told
            return False
        if not data:
            return False
        order = json.loads(data)
        if order["op"] == "hello":
            sys.path[:] = order["path"]
            self._memory_mib = order["memory_mib"]
            sandboxed.configure(TypeAdapter(SandboxConfig).validate_python(order["sandbox"]))
        elif order["op"] == "load":
            error = self._load(order)
            needs_s = 0.0 if error else getattr(self._verifiers[order["name"]], "needs_s", 0.0)
            self._tell({"op": "loaded", "name": order["name"], "error": error, "needs_s": needs_s})
        else:
            self._fork(order["ticket"], descriptors[0])
        return True

    def _load(self, order: dict[str, Any]) -> str | None:
        with Attempt(Exception) as attempt:  # whatever a constructor raises is for the pool's owner to see
            self._verifiers[order["name"]] = build_verifier(order["path"], order["options"])
        if isinstance(attempt.error, CascadeError):
            return str(attempt.error)
        if attempt.error is not None:
            return f"{order['name']}: {type(attempt.error).__name__}: {attempt.error}"
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            return (
                f"verifier {order['name']!r} started {threads - 1} threads while loading: its process can't be forked"
            )
        gc.collect()
        gc.freeze()  # children share these pages as long as the collector doesn't write to them
        return None

    def _fork(self, ticket: int, descriptor: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_worker(descriptor, parent)
        os.close(descriptor)
        self._children.add(pid)
        handle = os.pidfd_open(pid)
        self._tell({"op": "forked", "ticket": ticket, "pid": pid}, [handle])
        os.close(handle)

    def _become_worker(self, descriptor: int, parent: int) -> NoReturn:
        with Attempt(BaseException) as attempt:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for inherited in (self._control.detach(), self._wake_read, self._wake_write):
                os.close(inherited)
            channel = socket.socket(fileno=descriptor)
            worker.serve(channel, self._verifiers, parent=parent, memory_mib=self._memory_mib)
        error = attempt.error
        if isinstance(error, BrokenPipeError):  # the pool has gone
            os._exit(0)
        try:
            if error is not None:
                sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(70)

    def _reap(self, block: bool = False) -> None:
        """Collect ended children, each with its whole process group, and report how they ended."""
        while self._children:
            flags = os.WEXITED | os.WNOWAIT | (0 if block else os.WNOHANG)
            ended = os.waitid(os.P_ALL, 0, flags)
            if ended is None:
                return
            # Before reaping: until then the group's id can't be given to anyone else. There may be no such group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(ended.si_pid, signal.SIGKILL)
            _, status = os.waitpid(ended.si_pid, 0)
            self._children.discard(ended.si_pid)
            self._tell({"op": "exit", "pid": ended.si_pid, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        # If the pool has gone, the closed control socket ends the loop.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors or [])


def main(arguments: list[str]) -> None:
    """Serve on the inherited socket; arguments: its descriptor, the parent's process id."""
    worker.die_with_parent(int(arguments[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, who then closes the pool
    _ForkServer(socket.socket(fileno=int(arguments[0]))).run()


if __name__ == "__main__":
    main(sys.argv[1:])
