"""The sinks' processes, from a run's side: started, left alone, and ended in time whatever they do."""

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nemo_cascade.config.logging import LoggingConfig

log = logging.getLogger(__name__)

_LAST_WORDS = 400


@dataclass(frozen=True, slots=True)
class _Running:
    """One sink at work."""

    kind: str
    process: subprocess.Popen[bytes]
    log_file: Path


@contextmanager
def sinks_following(config: LoggingConfig, folder: Path) -> Iterator[None]:
    """Have every configured sink follow a run folder while the block runs; what becomes of them is only logged."""
    running = []
    for number, sink in enumerate(config.sinks):
        with _told(sink.kind):
            running.append(_start(sink.kind, number, folder))
    try:
        yield
    finally:
        for sink_at_work in running:
            with _told(sink_at_work.kind):
                assert sink_at_work.process.stdin is not None
                sink_at_work.process.stdin.close()
        deadline = time.monotonic() + config.sink_deadline_s
        for sink_at_work in running:
            with _told(sink_at_work.kind):
                _end(sink_at_work, max(0.1, deadline - time.monotonic()), config.sink_deadline_s)


def _start(kind: str, number: int, folder: Path) -> _Running:
    log_file = folder / "logs" / f"sink-{number}-{kind.rpartition(':')[2]}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.follow", str(folder), str(number)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the terminal is for the run, which then ends its sinks
        )
    return _Running(kind, process, log_file)


def _end(sink: _Running, left_s: float, deadline_s: float) -> None:
    try:
        code = sink.process.wait(left_s)
    except subprocess.TimeoutExpired:
        sink.process.kill()
        sink.process.wait()
        log.warning(
            "the sink %s didn't write what was left within %g s and was ended (logging.sink_deadline_s); its log: %s",
            sink.kind,
            deadline_s,
            sink.log_file,
        )
        return
    if code:
        words = sink.log_file.read_text(encoding="utf-8", errors="replace").strip()[-_LAST_WORDS:]
        last = words.splitlines()[-1] if words else f"exit code {code}"
        log.warning("the sink %s failed, the run went on without it: %s; its log: %s", sink.kind, last, sink.log_file)


@contextmanager
def _told(kind: str) -> Iterator[None]:
    """Say what the operating system refuses about a sink, and go on."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            log.warning("the sink %s can't be used: %s", kind, error)
