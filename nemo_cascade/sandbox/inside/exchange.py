"""Plain data between the solution's process and the checker's: a frame is a u32 length and JSON.

JSON's own null, booleans, numbers, strings and lists stand for themselves. The rest is {"t": kind, "v": content},
dictionaries too. Objects of classes that both sides know (a problem's ListNode) travel as records: name of the class
and attributes, in a list beside the values, which name them by their place in it. What is neither stays where it is and
travels as a handle: {"t": "object", ...}. So whatever a solution sends, the checker holds values of Python's own types,
objects of its own classes, or proxies of its own making.
"""

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
_CHECKERS_DIGITS = 20_000


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
        handle: makes the JSON form of what isn't plain.
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


Records = list[tuple[str, dict[str, Any]]]


def pack(
    values: list[Any], class_of: Callable[[Any], str | None], handle: Callable[[Any], Any], known: list[Any]
) -> tuple[list[Any], Records]:
    """Return the forms of values, and the records that they name. Long chains of objects take no deep recursion.

    Args:
        values: to be sent.
        class_of: the name of the class of an object that travels as a record, None for others.
        handle: see encode().
        known: objects that come first among the records, in this order; the others are added to it.
    """
    places = {id(item): place for place, item in enumerate(known)}

    def other(value: Any) -> Any:
        if class_of(value) is None:
            return handle(value)
        if id(value) not in places:
            places[id(value)] = len(known)
            known.append(value)
        return {"t": "record", "v": places[id(value)]}

    forms = [encode(value, other) for value in values]
    records: Records = []
    while len(records) < len(known):
        item = known[len(records)]
        attributes = {str(name): encode(value, other) for name, value in vars(item).items()}
        records.append((class_of(item) or "", attributes))
    return forms, records


def unpack(
    forms: list[Any], records: Records, make: Callable[[str], Any], resolve: Callable[[dict[str, Any]], Any]
) -> tuple[list[Any], list[Any]]:
    """Return the values of forms, and the objects of the records.

    Args:
        forms: as pack() wrote them.
        records: likewise.
        make: makes an object without attributes of the class with this name.
        resolve: see decode().
    """
    objects = [make(str(name)) for name, _ in records]

    def other(form: dict[str, Any]) -> Any:
        return objects[int(form["v"])] if form["t"] == "record" else resolve(form)

    for item, (_, attributes) in zip(objects, records, strict=True):
        vars(item).update({str(name): decode(form, other) for name, form in attributes.items()})
    return [decode(form, other) for form in forms], objects


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
    """Lift Python's limit on decimal digits, for the solution: it pays for its own conversions."""
    sys.set_int_max_str_digits(0)


def limit_long_integers() -> None:
    """Let the checker convert what tests plausibly ask for: it takes quadratic time, at a solution's bidding."""
    sys.set_int_max_str_digits(_CHECKERS_DIGITS)
