"""What a forked child does: shut itself in, wait for its job, run it.

A job is one frame on the child's socket: two little-endian u32 (header and body length), the header (JSON), the body
(the files' bytes, end to end). Descriptors travel with its first byte, in the order of the header's `descriptors`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from . import confine, landlock, seccomp

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
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_MOST_INHERITED = 4096
_REHEARSALS = 40
_ANCILLARY_BYTES = socket.CMSG_SPACE(8 * 4)
_NPROC_OF_THE_SANDBOX = 8


class Confinement(NamedTuple):
    """How a child shuts itself in.

    Attributes:
        namespaces: it was born into namespaces of its own.
        uid: the user it becomes, or None to stay the zygote's.
        files_mib: size of its /tmp.
        folder: where its program runs.
        readable: what it may read, where no private root decides that.
        seccomp_filter: as seccomp.prepare() returns it.
    """

    namespaces: bool
    uid: int | None
    files_mib: int
    folder: str
    readable: Sequence[str]
    seccomp_filter: Any


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


def rehearse(rehearse_program: Callable[[], None]) -> None:
    """Do in the zygote, on nothing, what every child will do.

    The interpreter specialises code while it runs, fills caches and loads what it needs on first use. Done here it is
    done once; done in a child each of these writes copies a page that is thrown away with the child.
    """
    null = os.open("/dev/null", os.O_RDWR)
    header = {
        "kind": "",
        "limits": {"cpu_s": 1.0, "wall_s": 1.0},
        "argv": [],
        "entry": "main.py",
        "unwritten": ["main.py"],
    }
    for _ in range(_REHEARSALS):
        ours, theirs = socket.socketpair()
        source = b"import math\n"
        encoded = json.dumps({**header, "files": [["main.py", len(source)]], "descriptors": ["stdin"]}).encode()
        socket.send_fds(ours, [struct.pack("<II", len(encoded), len(source)) + encoded + source], [null])
        job = _receive(theirs)
        assert job is not None
        _write_files({path: content for path, content in job.files.items() if path not in job.header["unwritten"]})
        os.close(job.descriptors["stdin"])
        rehearse_program()
        ours.close()
        theirs.close()
    os.close(null)


def become(connection: socket.socket, confinement: Confinement) -> None:
    """Turn the forked child into a confined run. Never returns."""
    try:
        _only_descriptor(connection)
        _shut_in(confinement)
        job = _receive(connection)
        if job is None:  # the host hung up: this spare is not needed
            os._exit(0)
        _prepare(job, confinement)
        try:
            _write_files({path: content for path, content in job.files.items() if path not in job.header["unwritten"]})
        except OSError as error:
            connection.sendall(REFUSED + str(error).encode()[:4000])
            os._exit(EXIT_BROKEN)
    except BaseException as error:  # told to the host: nobody else can hear it
        connection.sendall(BROKEN + f"{type(error).__name__}: {error}".encode()[:4000])
        os._exit(EXIT_BROKEN)

    def started() -> None:
        connection.sendall(STARTED)
        connection.close()

    _KINDS[job.header["kind"]](job, started)


def _shut_in(confinement: Confinement) -> None:
    if confinement.namespaces:
        uid = confine.FIRST_UID if confinement.uid is None else confinement.uid
        confine.private_mounts(confinement.files_mib, uid)
    else:
        os.setsid()
        confine.die_with_parent()
    confine.drop_privileges(confinement.uid)
    if confinement.readable and landlock.version() > 0:
        landlock.restrict(confinement.readable, [confinement.folder, *_DEVICES])
    os.chdir(confinement.folder)
    if not confinement.namespaces:  # with them it is /tmp for all
        os.environ.update(HOME=confinement.folder, TMPDIR=confinement.folder)
    seccomp.install(confinement.seccomp_filter)


def _prepare(job: Job, confinement: Confinement) -> None:
    overhead = _NPROC_OF_THE_SANDBOX if confinement.uid is None else 0
    confine.limit_resources(job.header["limits"], overhead)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(job.descriptors[name], number, inheritable=True)
        os.close(job.descriptors[name])
    gc.enable()


def _only_descriptor(connection: socket.socket) -> None:
    """Close everything inherited but the connection and the standard streams."""
    kept = connection.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, _MOST_INHERITED)


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        piece = connection.recv(min(count - len(parts), 1 << 20))
        if not piece:
            return None
        parts += piece
    return bytes(parts)


def _receive(connection: socket.socket) -> Job | None:
    first, ancillary, _, _ = connection.recvmsg(8, _ANCILLARY_BYTES)
    if not first:
        return None
    descriptors = memoryview(ancillary[0][2]).cast("i")
    rest = _exactly(connection, 8 - len(first))
    if rest is None:
        return None
    header_length, body_length = struct.unpack("<II", first + rest)
    header_bytes, body = _exactly(connection, header_length), _exactly(connection, body_length)
    if header_bytes is None or body is None:
        return None
    header = json.loads(header_bytes)
    files, offset = {}, 0
    for path, length in header["files"]:
        files[path] = body[offset : offset + length]
        offset += length
    return Job(header, files, dict(zip(header["descriptors"], descriptors, strict=True)))


def _write_files(files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
