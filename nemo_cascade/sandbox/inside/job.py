"""What a forked child does: shut itself in, wait for its job, run it.

A job is one frame on the child's socket: two little-endian u32 (header and body length), the header (in marshal's form:
host and child are the same interpreter, and reading it touches few pages), the body (the files' bytes, end to end).
Descriptors travel with its first byte, in the order of the header's `descriptors`.
"""

from __future__ import annotations

import gc
import importlib
import marshal
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from . import confine
from .foreign import Attempt

EXIT_BROKEN = 251
"""Exit status of a child that failed before its program started."""
EXIT_MEMORY = 250
"""Exit status of a Python program that ended with MemoryError."""
BROKEN = b"!"
"""Sent to the host before what went wrong, instead of STARTED."""
REFUSED = b"?"
"""Sent before the reason why the job's files can't be written: the job's fault, not the sandbox's."""
STARTED = b"s"
"""Sent to the host right before the program's first instruction."""

# What programs import most. Each module makes every fork dearer: asyncio, ssl and unittest alone would triple its cost.
_PRELOADED = (
    "abc bisect collections contextlib copy functools heapq io itertools json math operator os random re string sys "
    "threading time traceback types typing"
)
_KINDS: dict[str, Callable[[Job, Callable[[], None]], None]] = {}
_MOST_INHERITED = 4096
_FIRST_PIECE_BYTES = 1 << 16
_ANCILLARY_BYTES = socket.CMSG_SPACE(8 * 4)
_NPROC_OF_THE_SANDBOX = 8


class Confinement(NamedTuple):
    """How a child shuts itself in.

    Attributes:
        steps: from mounts to the system call filter, made ready by the zygote.
        uid: the user it becomes; None: it stays the zygote's.
        folder: where its program runs, without namespaces.
        rules: descriptor of the rules of file access, which a step refers to; -1 where there are none.
        no_forks: the step after which no process can be started.
    """

    steps: Sequence[confine.Step]
    uid: int | None
    folder: str | None
    rules: int
    no_forks: confine.Step


class Job(NamedTuple):
    """A job as received.

    Attributes:
        header: `kind`, `limits`, `argv`, and what the kind needs.
        files: path relative to the run's folder -> bytes.
        descriptors: name -> number.
    """

    header: Mapping[str, Any]
    files: Mapping[str, bytes]
    descriptors: Mapping[str, int]


def preload() -> None:
    """Import what programs use most, once for all runs."""
    for name in _PRELOADED.split():
        importlib.import_module(name)
    for kind in ("python_program", "solution", "harness", "command"):
        _KINDS[kind] = importlib.import_module(f"{__package__}.{kind}").run
    # A program's own `job` or `tree` must not meet ours.
    for name in [name for name in sys.modules if name.split(".")[0] == (__package__ or "").split(".")[0]]:
        del sys.modules[name]


def rehearse(program: bytes, perform: Callable[[Job, Callable[[], None]], object]) -> None:
    """Send a job to oneself, and perform it without being shut in; see rehearsal.py."""
    no_limits = {"cpu_s": 1e9, "memory_mib": 1 << 24, "processes": 1 << 20, "files_mib": 1 << 24, "forks": False}
    streams = ["stdin", "stdout", "stderr"]
    header = {"kind": "", "limits": no_limits, "argv": [], "entry": "main.py", "unwritten": ["main.py"]}
    encoded = marshal.dumps({**header, "files": [["main.py", len(program)]], "descriptors": streams})
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [struct.pack("<II", len(encoded), len(program)) + encoded + program], [0, 1, 2])
    _close_but((), _MOST_INHERITED)  # nothing
    job = _ready(theirs, Confinement(confine.HARMLESS, confine.FIRST_UID, None, -1, confine.HARMLESS[0]))
    assert job is not None
    perform(job, _starting(theirs))
    ours.close()


def become(connection: socket.socket, confinement: Confinement) -> None:
    """Turn the forked child into a confined run. Never returns."""
    with Attempt(BaseException) as attempt:
        kept = sorted({connection.fileno(), confinement.rules} - {-1})
        _close_but(kept, 3)  # all inherited but the connection, the rules and the standard streams
        os.setsid()  # signals to its group and what it asks of the scheduler concern the run alone
        if confinement.folder is not None:
            _shut_in_without_namespaces(confinement.folder)
        job = _ready(connection, confinement)
        if job is None:  # the host hung up: this spare is not needed
            os._exit(0)
    error = attempt.error
    if error is not None:  # told to the host: nobody else can hear it
        refused = isinstance(error, _RefusedError)
        told = REFUSED + str(error).encode() if refused else BROKEN + f"{type(error).__name__}: {error}".encode()
        connection.sendall(told[:4000])
        os._exit(EXIT_BROKEN)
    assert job is not None, "nothing failed"
    _KINDS[job.header["kind"]](job, _starting(connection))


class _RefusedError(Exception):
    """The job's files can't be written."""


def _ready(connection: socket.socket, confinement: Confinement) -> Job | None:
    """Shut in, receive the job and prepare all for its program."""
    steps, uid, _, rules, no_forks = confinement
    confine.take(steps)
    if rules >= 0:
        os.close(rules)
    job = _receive(connection)
    if job is None:
        return None
    header, files, descriptors = job
    confine.limit_resources(header["limits"], _NPROC_OF_THE_SANDBOX if uid is None else 0)
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        os.dup2(descriptors[name], number)
        os.close(descriptors[name])
    if not header["limits"]["forks"]:
        confine.take((no_forks,))
    gc.enable()
    unwritten = header["unwritten"]
    for path, content in files.items():
        if path not in unwritten:
            _write(path, content)
    return job


def _starting(connection: socket.socket) -> Callable[[], None]:
    def started() -> None:
        connection.sendall(STARTED)
        os.close(connection.detach())

    return started


def _shut_in_without_namespaces(folder: str) -> None:
    confine.die_with_parent()
    os.environ.update(HOME=folder, TMPDIR=folder)  # with namespaces it is /tmp for all


def _close_but(kept: Sequence[int], first: int) -> None:
    for one in kept:
        os.closerange(first, one)
        first = one + 1
    os.closerange(first, _MOST_INHERITED)


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        piece = connection.recv(min(count - len(parts), 1 << 20))
        if not piece:
            raise EOFError("the host hung up in the middle of a job")
        parts += piece
    return bytes(parts)


def _receive(connection: socket.socket) -> Job | None:
    frame, ancillary, _, _ = connection.recvmsg(_FIRST_PIECE_BYTES, _ANCILLARY_BYTES)
    if not frame:
        return None
    descriptors = memoryview(ancillary[0][2]).cast("i")
    if len(frame) < 8:
        frame += _exactly(connection, 8 - len(frame))
    header_length, body_length = struct.unpack_from("<II", frame)
    whole = 8 + header_length + body_length
    if len(frame) < whole:
        frame += _exactly(connection, whole - len(frame))
    header = marshal.loads(frame[8 : 8 + header_length])
    files, offset = {}, 8 + header_length
    for path, length in header["files"]:
        files[path] = frame[offset : offset + length]
        offset += length
    return Job(header, files, dict(zip(header["descriptors"], descriptors, strict=True)))


def _write(path: str, content: bytes) -> None:
    try:
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise _RefusedError(str(error)) from error
