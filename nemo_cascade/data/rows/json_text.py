"""Read JSON as people's files hold it: a value, or one line that says why it is none.

Python's reader admits what is no JSON, or can't be written again: NaN, infinities, halves of surrogate pairs, nesting
without a bound; of a key that stands twice in an object it keeps the last value, in silence; and it refuses numbers of
over 4,300 digits by an error of another kind. Here each is a ValueError.
"""

import json
from typing import Any

DEEPEST = 100
"""Most levels of lists and objects in each other."""


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return made


_STRICT = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_each_key_once)
_WITH_NAN = json.JSONDecoder(object_pairs_hook=_each_key_once)


def read_json(text: str | bytes, *, nan: bool = False) -> Any:
    """Parse a JSON text.

    Args:
        text: it, or its UTF-8 bytes, perhaps with a byte-order mark.
        nan: admit NaN and infinities, which Python and pandas write where a column has no value.

    Raises:
        ValueError: it isn't JSON, isn't UTF-8, holds half a surrogate pair or a key twice, or is nested more than
            DEEPEST levels deep.
    """
    whole = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = (_WITH_NAN if nan else _STRICT).decode(whole)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise ValueError(
            "a number of more than 4300 digits" if "integer string" in str(error) else str(error)
        ) from None
    if whole.count("[") + whole.count("{") > DEEPEST:
        _refuse_deep(value)
    if "\\ud" in whole or "\\uD" in whole:
        _refuse_halves(value)
    return value


def _refuse_deep(value: Any) -> None:
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]


def _refuse_halves(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise ValueError(f"half a surrogate pair, \\u{half:04x}, which no text can hold") from None
