"""Plain data between the solution's process and the checker's: a frame is a u32 length and JSON.

JSON's own null, booleans, numbers, strings and lists stand for themselves. The rest is {"t": kind, "v": content},
dictionaries too. What is none of the plain kinds stays where it is and travels as a handle: {"t": "object", ...}.
So whatever a solution sends, the checker holds values of Python's own types, or proxies of the checker's own making.
"""

from __future__ import annotations

import binascii
import collections
import importlib
import json
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

MOST_BYTES = 64 << 20
"""Longest frame."""
_WORDY_INTEGER = 1 << 4096  # longer ones travel in hexadecimal: decimal conversion is quadratic, and limited


class NotPlainError(TypeError):
    """A value that can't travel."""


def send(connection: socket.socket, message: Any) -> None:
    """Send one frame."""
    encoded = json.dumps(message).encode("ascii")
    connection.sendall(struct.pack("<I", len(encoded)) + encoded)


def receive(connection: socket.socket) -> Any:
    """Receive one frame.

    Raises:
        EOFError: if the other side has hung up.
        ValueError: if it sent something else than a frame.
    """
    (length,) = struct.unpack("<I", _exactly(connection, 4))
    if length > MOST_BYTES:
        raise ValueError(f"a frame of {length} bytes, at most {MOST_BYTES}")
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        piece = connection.recv(min(count - len(parts), 1 << 20))
        if not piece:
            raise EOFError
        parts += piece
    return bytes(parts)


def encode(value: Any, handle: Callable[[Any], Any]) -> Any:
    """Return the JSON form of a value.

    Args:
        value: any value; subclasses of plain types travel as the plain type.
        handle: makes the JSON form of what isn't plain, or raises NotPlainError.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -_WORDY_INTEGER < number < _WORDY_INTEGER else {"t": "int", "v": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, list):
        return [encode(item, handle) for item in list.__iter__(value)]
    for kind, (test, pack, _) in _KINDS.items():
        if isinstance(value, test):
            return {"t": kind, "v": pack(value, lambda item: encode(item, handle))}
    for ancestor in type(value).__mro__:
        kind = f"{ancestor.__module__}.{ancestor.__qualname__}"
        if kind in _LIBRARY_KINDS:
            return {"t": kind, "v": _LIBRARY_KINDS[kind][0](value)}
    if type(value).__module__ == "numpy":
        return encode(value.tolist(), handle)
    return handle(value)


def decode(form: Any, resolve: Callable[[dict[str, Any]], Any]) -> Any:
    """Return the value of a JSON form.

    Args:
        form: as received.
        resolve: makes a value of a handle.

    Raises:
        ValueError: for a form that no encode() wrote.
    """
    if isinstance(form, list):
        return [decode(item, resolve) for item in form]
    if not isinstance(form, dict):
        return form
    kind = form.get("t")
    if kind == "int":
        return int(form["v"], 16)
    if kind in _KINDS:
        return _KINDS[kind][2](form["v"], lambda item: decode(item, resolve))
    if kind in _LIBRARY_KINDS:
        module, _, name = kind.rpartition(".")
        return _LIBRARY_KINDS[kind][1](getattr(importlib.import_module(module), name), form["v"])
    return resolve(form)


def _pack_items(value: Any, recurse: Callable[[Any], Any]) -> Any:
    return [recurse(item) for item in value]


def _unpack_as(make: Callable[[list[Any]], Any]) -> Callable[[Any, Callable[[Any], Any]], Any]:
    return lambda form, recurse: make([recurse(item) for item in form])


def _pack_dict(value: Any, recurse: Callable[[Any], Any]) -> Any:
    return [[recurse(key), recurse(item)] for key, item in dict.items(value)]


def _unpack_dict(form: Any, recurse: Callable[[Any], Any]) -> Any:
    return {recurse(key): recurse(item) for key, item in form}


def _pack_bytes(value: Any, recurse: Callable[[Any], Any]) -> Any:
    return binascii.b2a_base64(bytes(value)).decode("ascii")


def _of_base64(make: Callable[[bytes], Any]) -> Callable[[Any, Callable[[Any], Any]], Any]:
    return lambda form, recurse: make(binascii.a2b_base64(form))


_Pack = Callable[[Any, Callable[[Any], Any]], Any]
# kind -> (types, to JSON, from JSON); the first that fits counts, so subclasses come before their bases.
_KINDS: dict[str, tuple[Any, _Pack, _Pack]] = {
    "tuple": (tuple, _pack_items, _unpack_as(tuple)),
    "dict": (dict, _pack_dict, _unpack_dict),
    "set": (set, _pack_items, _unpack_as(set)),
    "frozenset": (frozenset, _pack_items, _unpack_as(frozenset)),
    "deque": (collections.deque, _pack_items, _unpack_as(collections.deque)),
    "bytes": (bytes, _pack_bytes, _of_base64(bytes)),
    "bytearray": (bytearray, _pack_bytes, _of_base64(bytearray)),
    "range": (range, lambda value, recurse: [value.start, value.stop, value.step], lambda form, recurse: range(*form)),
    "complex": (
        complex,
        lambda value, recurse: [value.real, value.imag],
        lambda form, recurse: complex(form[0], form[1]),
    ),
}
# Types of the standard library, by name: their modules are loaded only where one is met. (to JSON, from type and JSON)
_LIBRARY_KINDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "decimal.Decimal": (str, lambda kind, form: kind(form)),
    "fractions.Fraction": (str, lambda kind, form: kind(form)),
    "datetime.datetime": (lambda value: value.isoformat(), lambda kind, form: kind.fromisoformat(form)),
    "datetime.date": (lambda value: value.isoformat(), lambda kind, form: kind.fromisoformat(form)),
    "datetime.time": (lambda value: value.isoformat(), lambda kind, form: kind.fromisoformat(form)),
    "datetime.timedelta": (
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda kind, form: kind(*form),
    ),
}


def allow_long_integers() -> None:
    """Lift Python's limit on decimal digits: numbers on the wire are bounded by the frame."""
    sys.set_int_max_str_digits(0)
