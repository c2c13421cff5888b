"""How every config block is declared: a frozen, keyword-only pydantic dataclass that refuses unknown keys."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

T = TypeVar("T")

Fraction = Annotated[float, Field(ge=0, le=1)]

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed that every library takes: vLLM's and NumPy's have 32 bits."""

_CONFIG = ConfigDict(extra="forbid", validate_default=True)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def block(cls: type[T]) -> type[T]:
    """Declare a config block."""
    make: Callable[[type[Any]], Any] = pydantic_dataclass(frozen=True, kw_only=True, config=_CONFIG)
    return make(cls)  # type: ignore[no-any-return]
