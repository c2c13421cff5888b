"""Judge models behind OpenAI-compatible servers."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from nemo_cascade.config.base import block


@block
class GenRMConfig:
    """Generative reward model: compares the responses to a prompt in pairs (arXiv 2512.20848, section 3.3.2)."""

    url: str = ""
    """Base URL of its server's API, such as http://judge:8000/v1; needed where a verifier is `genrm`."""
    model: str = ""
    """Its name on that server."""
    api_key_variable: str = ""
    """Environment variable that holds the server's key; empty: none is sent."""
    timeout_s: PositiveFloat = 600.0
    """Of one request."""
    attempts: PositiveInt = 3
    """Tries when the server is unreachable, overloaded or broken."""
    concurrency: PositiveInt = 64
    """Comparisons under way at once."""
    pairs: Literal["circular", "all"] = "circular"
    """circular: each response is compared with its two neighbours; all: each with each."""
    parse_attempts: PositiveInt = 3
    """Tries for a judgement that can be read; after the last it counts as undecided."""
    temperature: NonNegativeFloat = 0.6
    """Of the judge."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Of the judge."""
    max_tokens: PositiveInt = 16384
    """Of a judgement."""
    request: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request, such as response_format."""
