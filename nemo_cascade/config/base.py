"""How every config block is declared: a frozen, keyword-only pydantic dataclass that refuses unknown keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as pydantic_dataclass

T = TypeVar("T")

# The docstring under each field becomes its description: `nemo-cascade explain KEY` reads it.
_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def block(cls: type[T]) -> type[T]:
    """Declare a config block."""
    make: Callable[[type[Any]], Any] = pydantic_dataclass(frozen=True, kw_only=True, config=_CONFIG)
    return make(cls)  # type: ignore[no-any-return]
