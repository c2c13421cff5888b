"""Run children of one worker to their end: feed them, read what they say, kill what goes over a limit."""

import fcntl
import os
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.inside.job import REFUSED, STARTED
from nemo_cascade.sandbox.worker import Ended, Worker, WorkerLostError, send_job

_PIECE = 1 << 16
_SETUP_DEADLINE_S = 20.0
_DEATH_DEADLINE_S = 5.0
_LISTEN_AFTER_S = 0.005
_WATCH_AFTER_S = 0.05
_NOT_LAUNCHED = -1


class JobRefusedError(SandboxError):
    """A job that no sandbox can run, as for files that don't fit its folder; the worker is none the worse."""


@dataclass
class Errand:
    """One child with its job and what it has said so far.

    Attributes:
        header: the job's header.
        files: files to write before it starts.
        limits: what it may use.
        stdin: what it reads.
        extra: further descriptors it gets, by name; they stay the caller's to close.
        gifts: likewise, but closed here once it has them, so that it alone holds them.
        essential: the others are killed when it ends.
    """

    header: Mapping[str, Any]
    files: Mapping[str, bytes]
    limits: Limits
    stdin: bytes = b""
    extra: Mapping[str, int] = field(default_factory=dict)
    gifts: Mapping[str, int] = field(default_factory=dict)
    essential: bool = True
    compile_job: bool = False
    said: dict[str, bytearray] = field(default_factory=dict)
    over: str | None = None
    launched_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    ended: Ended | None = None
    pid: int = _NOT_LAUNCHED


def memory_file(name: str) -> int:
    """Return a descriptor of an empty anonymous file."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def sealed_file(name: str, content: bytes) -> int:
    """Return a descriptor of an anonymous file that nobody can change any more, at its beginning."""
    descriptor = memory_file(name)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(
        descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return descriptor


def _input(content: bytes) -> int:
    return sealed_file("stdin", content) if content else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def _for_the_child(limits: Limits) -> dict[str, float]:
    """Return the limits that the kernel enforces; those of time and output are enforced here."""
    return {
        "cpu_s": limits.cpu_s,
        "memory_mib": limits.memory_mib,
        "processes": limits.processes,
        "files_mib": limits.files_mib,
        "forks": limits.forks,
    }


def _close_all(descriptors: Mapping[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


class Execution:
    """Runs errands side by side on one worker."""

    def __init__(self, worker: Worker, errands: list[Errand]) -> None:
        self._worker, self._errands = worker, errands
        self._poll = select.poll()
        self._readers: dict[int, tuple[Errand, str]] = {}
        self._born, self._listening, self._watched = time.monotonic(), False, False

    def run(self) -> None:
        """Run all errands to their end and fill in what came of them.

        Raises:
            JobRefusedError: if a job's files can't be written.
            WorkerLostError: if the worker died or hung, or a child could not be set up; nothing is known about the
                programs then.
        """
        self._poll.register(self._worker.channel, select.POLLIN)
        try:
            for errand in self._errands:
                self._launch(errand)
            while any(errand.ended is None for errand in self._errands):
                self._turn()
            self._drain()
        finally:
            for descriptor in self._readers:
                os.close(descriptor)
            for errand in self._errands:
                if errand.pid == _NOT_LAUNCHED:
                    _close_all(errand.gifts)

    def _launch(self, errand: Errand) -> None:
        spare = self._worker.take((errand.limits.files_mib, errand.compile_job))
        errand.pid, errand.launched_at = spare.pid, time.monotonic()
        given = {**errand.gifts, "stdin": _input(errand.stdin)}
        for stream in ("stdout", "stderr"):
            read, given[stream] = os.pipe()
            os.fchmod(given[stream], 0o666)  # so that it may be opened by its name, as /dev/stdout
            errand.said[stream] = bytearray()
            self._readers[read] = (errand, stream)
        errand.said["connection"] = bytearray()
        try:
            header = {**errand.header, "limits": _for_the_child(errand.limits)}
            send_job(spare, header, errand.files, {**given, **errand.extra})
        finally:
            self._readers[spare.connection.detach()] = (errand, "connection")
            _close_all(given)
        self._worker.refill()

    def _turn(self) -> None:
        now = time.monotonic()
        self._enforce_deadlines(now)
        age_s = now - self._born
        if not self._listening and age_s > _LISTEN_AFTER_S:
            self._listen()
        if not self._watched and age_s > _WATCH_AFTER_S:
            self._watch()
        wait_s = min(self._deadline(errand) for errand in self._errands if errand.ended is None) - now
        if not self._watched:
            wait_s = min(wait_s, (_WATCH_AFTER_S if self._listening else _LISTEN_AFTER_S) - age_s)
        for descriptor, _ in self._poll.poll(max(0.0, wait_s) * 1000 + 1):
            if descriptor == self._worker.channel.fileno():
                self._worker.hear()
                self._note_ends()
            elif descriptor in self._readers:
                self._read(descriptor)

    def _listen(self) -> None:
        """Read what is said as it is said; short runs have ended before, and are read at once."""
        self._listening = True
        for descriptor in self._readers:
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)

    def _deadline(self, errand: Errand) -> float:
        if errand.over is not None:
            assert errand.ended_at is not None
            return errand.ended_at + _DEATH_DEADLINE_S
        if errand.started_at is None:
            return self._born + _SETUP_DEADLINE_S
        return errand.started_at + errand.limits.wall_s

    def _watch(self) -> None:
        """Have the trees of processes watched; most runs have ended long before it is worth the effort."""
        self._watched = True
        for errand in self._errands:
            if errand.ended is None:
                self._worker.watch(errand.pid, errand.limits, group=self._errands[0].pid)

    def _enforce_deadlines(self, now: float) -> None:
        for errand in self._errands:
            if errand.ended is not None or now < self._deadline(errand):
                continue
            if errand.over is not None or errand.started_at is None:
                raise WorkerLostError("a confined child neither starts nor dies", value=errand.over or "setting up")
            self._kill(errand, "timeout")

    def _kill(self, errand: Errand, reason: str) -> None:
        if errand.over is None and errand.ended is None:
            errand.over, errand.ended_at = reason, time.monotonic()
            self._worker.kill(errand.pid)

    def _note_ends(self) -> None:
        for errand in self._errands:
            if errand.ended is None and errand.pid in self._worker.ended:
                errand.ended = self._worker.ended.pop(errand.pid)
                errand.ended_at = errand.ended_at or time.monotonic()
                if errand.essential:
                    for other in self._errands:
                        self._kill(other, "abandoned")

    def _read(self, descriptor: int) -> bool:
        errand, stream = self._readers[descriptor]
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # the child died before it read all of its job
            piece = b""
        if not piece:
            if self._listening:
                self._poll.unregister(descriptor)
            os.close(descriptor)
            del self._readers[descriptor]
            return False
        if stream == "connection":
            self._hear_child(errand, piece)
            return True
        kept, room = errand.said[stream], errand.limits.output_kib * 1024
        if len(kept) + len(piece) > room:
            self._kill(errand, "output")
            errand.over = errand.over or "output"  # it may have ended by itself meanwhile
        kept += piece[: room - len(kept)]
        return True

    def _hear_child(self, errand: Errand, piece: bytes) -> None:
        errand.said["connection"] += piece
        if errand.said["connection"].startswith(STARTED):
            # One that started and ended between two looks: all that is known is that it was launched before.
            seen_at = time.monotonic() if errand.ended_at is None else errand.launched_at
            errand.started_at = errand.started_at or seen_at

    def _drain(self) -> None:
        """Read what is left in the pipes: all writers are dead, so each ends or is empty."""
        for descriptor in list(self._readers):
            if not self._listening:
                os.set_blocking(descriptor, False)
            while descriptor in self._readers and self._read(descriptor):
                pass
        for errand in self._errands:
            if errand.started_at is None:
                said = bytes(errand.said["connection"])
                words = said[1:].decode("utf-8", "replace")
                if said.startswith(REFUSED):
                    raise JobRefusedError("a program's files can't be written", value=words, mend="limits.files_mib")
                raise WorkerLostError("a confined child could not be set up", value=words or errand.ended)
