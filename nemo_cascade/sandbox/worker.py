"""The host's side of one warm worker: start it, take confined children from it, hear of their end, replace it."""

import contextlib
import json
import marshal
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.inside.confine import FIRST_UID, UIDS
from nemo_cascade.sandbox.isolation import Launch, refuse_namespaces

_START_DEADLINE_S = 60.0
_REPLY_DEADLINE_S = 20.0
_PACKET = 1 << 16


class WorkerLostError(SandboxError):
    """The worker process died or stopped answering; the run says nothing about the program."""


@dataclass(frozen=True, slots=True)
class Spare:
    """A confined child that waits for its job."""

    pid: int
    connection: socket.socket
    shape: tuple[int, bool]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended, as its parent saw it; `group_s`: CPU seconds of all that were watched with it."""

    status: int
    cpu_s: float
    group_s: float
    waited_s: float
    reason: str | None


@dataclass(eq=False)
class Worker:
    """One warm interpreter. Not thread-safe: the pool gives it to one thread at a time.

    Attributes:
        launch: how it is started.
        shape: (files_mib, compile) of the spare that it keeps ready.
        spares_kept: most of them; a judgement takes two, and several forked at once cost less each.
        runs: children that were given a job.
    """

    launch: Launch
    shape: tuple[int, bool]
    spares_kept: int = 12
    runs: int = 0
    ended: dict[int, Ended] = field(default_factory=dict)
    spares: list[Spare] = field(default_factory=list)
    _pending: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _channel: socket.socket | None = None
    _stopping: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Start the process and wait until it can fork.

        Raises:
            SandboxError: with the kernel's or bubblewrap's reason where it can't.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START_DEADLINE_S)
        self._channel = ours
        with theirs, contextlib.ExitStack() as closing:
            command, release = list(self.launch.command), None
            pass_fds: tuple[int, ...] = ()
            if self.launch.map_users:
                release = _UserMap(closing)
                command[1:1] = release.options
                pass_fds = release.inherited
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=self.launch.environment,
                pass_fds=pass_fds,
                start_new_session=True,
                umask=0o022,
                cwd="/",
            )
            if release is not None:
                release.write(self._process)
        message, _ = self._receive(starting=True)
        assert "ready" in message, message
        self.refill()

    @property
    def channel(self) -> socket.socket:
        """The socket to poll for messages of the worker."""
        assert self._channel is not None, "the worker was not started"
        return self._channel

    @property
    def waiting(self) -> int:
        """Number of children that wait for a job, or are on their way."""
        return len(self.spares) + self._pending

    def request_spares(self, shape: tuple[int, bool], count: int = 1) -> None:
        """Ask for more waiting children."""
        self._send({"spawn": count, "shape": shape})
        self._pending += count

    def refill(self) -> None:
        """Ask for new spares if too few are ready or on their way."""
        if self.waiting <= self.spares_kept // 2:
            self.request_spares(self.shape, self.spares_kept - self.waiting)

    def watch(self, pid: int, limits: Limits, group: int) -> None:
        """Have all processes of a child together held to limits; one waits only if all children of a group do."""
        told = {"memory_mib": limits.memory_mib, "cpu_s": limits.cpu_s, "waiting_s": limits.waiting_s}
        self._send({"watch": {"pid": pid, "group": group, **told}})

    def take(self, shape: tuple[int, bool]) -> Spare:
        """Return a waiting child of a shape; wait for it if need be."""
        if self._pending == 0 and not any(spare.shape == shape for spare in self.spares):
            self.request_spares(shape)
        while True:
            for spare in self.spares:
                if spare.shape == shape:
                    self.spares.remove(spare)
                    self.runs += 1
                    return spare
            if self._pending == 0:
                self.request_spares(shape)
            self.hear()

    def kill(self, pid: int) -> None:
        """Have a child and all its processes killed; its end is still to be heard."""
        self._send({"kill": pid})

    def hear(self) -> None:
        """Receive one message and file it: a spare, or the end of a child."""
        message, descriptors = self._receive()
        if "spares" in message:
            self._pending -= len(descriptors)
            shape = tuple(message["shape"])
            for pid, descriptor in zip(message["spares"], descriptors, strict=True):
                self.spares.append(Spare(pid, socket.socket(fileno=descriptor), shape))
            return
        pid = message.pop("exit")
        self.ended[pid] = Ended(**message)

    def stop(self) -> None:
        """Kill the worker with everything in it and wait for its end. May be called from any thread.

        Who holds the worker sees its channel end; the descriptors stay open, for their numbers may be in use there.
        """
        with self._stopping:
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def close(self) -> None:
        """Stop, and release the descriptors; only for who holds the worker."""
        self.stop()
        for spare in self.spares:
            spare.connection.close()
        self.spares.clear()
        if self._channel is not None:
            self._channel.close()
        if self._process is not None and self._process.stderr is not None:
            self._process.stderr.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self.channel.send(json.dumps(message).encode())
        except OSError as error:
            raise WorkerLostError("a sandbox worker is gone", value=error) from error

    def _receive(self, starting: bool = False) -> tuple[dict[str, Any], list[int]]:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self.channel, _PACKET, self.spares_kept)
        except OSError as error:  # a deadline too
            raise WorkerLostError("a sandbox worker doesn't answer", value=error) from error
        if not packet:
            raise self._death(starting)
        if starting:
            self.channel.settimeout(_REPLY_DEADLINE_S)
        return json.loads(packet), descriptors

    def _death(self, starting: bool) -> SandboxError:
        assert self._process is not None
        assert self._process.stderr is not None
        with contextlib.suppress(subprocess.TimeoutExpired), self._stopping:
            self._process.wait(5)
        os.set_blocking(self._process.stderr.fileno(), False)
        said = (self._process.stderr.read() or b"").decode("utf-8", "replace").strip()
        if starting and said.startswith("bwrap:"):
            return refuse_namespaces(said)
        return WorkerLostError("a sandbox worker died", value=f"{said[-500:]} (status {self._process.returncode})")


class _UserMap:
    """Maps two users into the new namespace: root (for set-up only) and one that owns nothing on this machine."""

    def __init__(self, closing: contextlib.ExitStack) -> None:
        self._info, info_write = os.pipe()
        block_read, self._block = os.pipe()
        self.inherited = (info_write, block_read)
        self.options = ["--info-fd", str(info_write), "--userns-block-fd", str(block_read)]
        for descriptor in (self._info, self._block):
            closing.callback(os.close, descriptor)

    def write(self, process: subprocess.Popen[bytes]) -> None:
        """Write the maps as soon as the process has its namespace, and let it go on."""
        for descriptor in self.inherited:
            os.close(descriptor)
        told = b""
        while b"}" not in told:
            piece = os.read(self._info, 4096)
            if not piece:  # it died; the reason is on its standard error
                return
            told += piece
        child = json.loads(told)["child-pid"]
        for kind in ("uid", "gid"):
            outside, own = _unused_id(kind, child), os.geteuid() if kind == "uid" else os.getegid()
            Path(f"/proc/{child}/{kind}_map").write_text(f"0 {own} 1\n{FIRST_UID} {outside} {UIDS}\n")
        os.write(self._block, b"1")


def _unused_id(kind: str, salt: int) -> int:
    """Return the first of UIDS ids that no account and no other live worker is likely to have, of those we may give."""
    lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
    start, _, length = (int(value) for value in max(lines, key=lambda line: int(line.split()[2])).split())
    half = length // 2
    return start + half + salt * UIDS % max(1, length - half - UIDS)


def send_job(
    spare: Spare, header: Mapping[str, Any], files: Mapping[str, bytes], descriptors: Mapping[str, int]
) -> None:
    """Send a waiting child its job; see inside/job.py for the frame."""
    full = {
        **header,
        "files": [[path, len(content)] for path, content in files.items()],
        "descriptors": list(descriptors),
    }
    try:
        encoded = marshal.dumps(full)
    except ValueError:  # a subclass of a plain type, as numpy.str_
        encoded = marshal.dumps(json.loads(json.dumps(full)))
    body = b"".join(files.values())
    frame = struct.pack("<II", len(encoded), len(body)) + encoded + body
    spare.connection.settimeout(_REPLY_DEADLINE_S)
    try:
        sent = socket.send_fds(spare.connection, [frame], list(descriptors.values()))
        if sent < len(frame):  # an empty send would fail where the child has read all and hung up already
            spare.connection.sendall(frame[sent:])
    except OSError as error:
        raise WorkerLostError("a confined child is gone before its job", value=_last_words(spare) or error) from error


def _last_words(spare: Spare) -> str:
    """Return what a child said before it went."""
    try:
        return spare.connection.recv(_PACKET).decode("utf-8", "replace")
    except OSError:
        return ""
