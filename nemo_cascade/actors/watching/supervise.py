"""Start and dismiss the guardian of a session: of Ray and its actors, or of a server for programs of others."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from nemo_cascade.actors.watching import janitor

log = logging.getLogger(__name__)

_DEADLINE_S = janitor.GRACE_S + janitor.KILL_DEADLINE_S + 5.0


class Watch:
    """A guardian at work: should this process die, it ends the session's processes and removes its folders.

    Args:
        pid, ticks: this process and when it started (`janitor.start_ticks`).
        session: names the session, in the environment of its processes.
        folders: to be removed beside it.
    """

    def __init__(self, pid: int, ticks: int | None, session: Path, *folders: Path) -> None:
        self._session = session
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", janitor.__file__, str(pid), str(ticks), str(session), *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal is for this process
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """Return the guardian's process id."""
        return self._process.pid

    def end(self) -> None:
        """Have it end the session now, and wait for that; what does not end is logged."""
        assert self._process.stdin is not None
        try:
            # A word, not only the end of the pipe: a forked child of this process may hold it open.
            self._process.stdin.write(b".")
            self._process.stdin.close()
            left = self._process.wait(_DEADLINE_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            left = 1
        if left:
            log.error(
                "processes of the session %s did not end: %s",
                self._session,
                janitor.session_processes(str(self._session)),
            )
