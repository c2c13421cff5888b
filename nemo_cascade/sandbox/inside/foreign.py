"""Run code that isn't ours and may raise whatever it likes: plug-ins, verifiers, programs, tests.

Such borders catch everything, and all catch it here. It lies here because what runs inside the sandbox has this folder
alone.
"""

from __future__ import annotations

from types import TracebackType


class Attempt:
    """Keeps what its body raises, as `error`, instead of letting it go on.

        with Attempt(Exception) as attempt:
            answer = plugin()
        if attempt.error is not None:
            ...

    Args:
        kept: Exception; or BaseException, where SystemExit and its like are failures of foreign code, too.
        but: what goes on all the same.
    """

    def __init__(self, *kept: type[BaseException], but: tuple[type[BaseException], ...] = ()) -> None:
        self._kept, self._but = kept, but
        self.error: BaseException | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, self._kept) or isinstance(error, self._but):
            return False
        self.error = error
        return True
