"""The one console on standard error: log lines and progress bars share it, so that neither is written into the other.

A terminal gets colours and is wrapped by; a pipe or a file gets whole lines, without the blanks that tables end in.
"""

import re
import sys
from typing import IO, TypeVar, cast

from rich.console import Console

# Piped output has no width of its own; tables then stay on one line each.
_PIPED = 200
_PADDING = re.compile(r"[ \t]+(?=\n)")


Kind = TypeVar("Kind", bound=Console)


class _Unpadded:
    """One of the standard streams, without blanks at the ends of lines.

    Args:
        name: `stdout` or `stderr`; what bears this name at the time is written to.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        """Write text; a stream that the caller closed (`>&-`) takes anything, one without a sign gets `?` for it."""
        stream = getattr(sys, self._name)
        if stream is None:
            return len(text)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        plain = _PADDING.sub("", text).encode(encoding, "replace").decode(encoding)
        return int(stream.write(plain))

    def flush(self) -> None:
        """Flush."""
        if (stream := getattr(sys, self._name)) is not None:
            stream.flush()

    def isatty(self) -> bool:
        """Tell that no terminal is behind it."""
        return False


def console(name: str, kind: type[Kind]) -> Kind:
    """Return a console on a standard stream, `stdout` or `stderr`."""
    stream = getattr(sys, name)
    if stream is not None and stream.isatty():
        return kind(stderr=name == "stderr", highlight=False, soft_wrap=name == "stderr")
    file = cast(IO[str], _Unpadded(name))
    return kind(file=file, highlight=False, soft_wrap=name == "stderr", width=_PIPED)


err = console("stderr", Console)
