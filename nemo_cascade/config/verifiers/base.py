"""What the settings of all verifiers have, and those of a model that judges."""

from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt

from nemo_cascade.config.base import block


@block
class Settings:
    """What all rewards have.

    Attributes:
        limits: names of the settings that bound a verdict's means and don't say what it is: under them the verifier's
            golden cases are tried, all else at its default.
    """

    kind: str
    """Verifier in the reward registry; `preference`: the reward model; `genrm`: the generative one (reward.genrm); or
    your own, `my_package.my_module:Name` or `my_file.py:name` (README, Adding)."""

    limits: ClassVar[frozenset[str]] = frozenset()

    @property
    def needs_s(self) -> float:
        """Seconds that one verdict may take by its own limits; 0: it has none."""
        return 0.0

    @property
    def options(self) -> dict[str, Any]:
        """What the verifier is constructed with: everything but its kind."""
        return {name: value for name, value in asdict(self).items() if name != "kind"}  # type: ignore[call-overload]


@block
class JudgeSettings:
    """A model behind an OpenAI-compatible server that is asked about single responses."""

    url: str
    """Base URL of its API, such as http://judge:8000/v1."""
    model: str
    """Its name on that server."""
    timeout_s: PositiveFloat = 60.0
    """Of one request."""
    attempts: PositiveInt = 3
    """Tries when the server is unreachable, overloaded or broken."""
    api_key_variable: str = ""
    """Environment variable that holds the server's key; empty: none is sent. The key itself stands in no file."""


def longest_s(cpu_s: float) -> float:
    """Return how long runs with this much CPU time together may take by the clock, on a machine that is busy."""
    return 3 * cpu_s + 10
