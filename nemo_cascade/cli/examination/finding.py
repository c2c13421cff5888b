"""One line of an examination, and how outside programs are asked."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_ANSWER_S = 30.0


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        subject: what was looked at.
        state: ok; absent (something works without it less well); or bad (runs will fail).
        detail: what was found.
        mend: what would help.
    """

    subject: str
    state: Literal["ok", "absent", "bad"]
    detail: str
    mend: str = ""


def asked(command: Sequence[str], deadline_s: float = _ANSWER_S) -> str | None:
    """Return what a program prints; None where it is missing, fails or doesn't answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
