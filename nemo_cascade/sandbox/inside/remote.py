"""The checker's stand-ins for what lives in the solution's process. None of them lets the solution decide a comparison.

A stand-in is equal to nothing but itself and has no truth value, so neither `==` nor `assert` can be answered by the
solution's code: tests pass on plain values only.
"""

from __future__ import annotations

import builtins
import socket
from typing import Any

from . import exchange


class SolutionError(Exception):
    """The solution raised something that is no built-in exception, or broke off."""


class Unjudgeable(Exception):
    """The test needs something that can't cross to the solution's process: the test's fault, not the solution's."""


class Link:
    """The checker's end of the connection to the solution."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def loaded(self) -> dict[str, Any]:
        """Wait for the solution to load; return what it defines."""
        return {name: self.decode(form) for name, form in self._receive()["loaded"].items()}

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer; what the solution raised is raised here."""
        try:
            exchange.send(self._connection, request)
        except OSError as error:
            raise SolutionError("the solution has ended") from error
        answer = self._receive()
        if "raised" in answer:
            raise _exception(str(answer["raised"]), str(answer.get("message", "")))
        return answer

    def decode(self, form: Any) -> Any:
        """Return the value of a form."""
        return exchange.decode(form, self._stand_in)

    def _receive(self) -> dict[str, Any]:
        try:
            answer = exchange.receive(self._connection)
        except (EOFError, OSError) as error:
            raise SolutionError("the solution has ended") from error
        except ValueError as error:  # RecursionError of a deep nest too: any garbage is the solution's fault
            raise SolutionError(f"the solution sent garbage: {error}") from error
        if not isinstance(answer, dict):
            raise SolutionError("the solution sent garbage")
        return answer

    def _stand_in(self, form: dict[str, Any]) -> Any:
        kinds = {"class": RemoteClass, "iterator": RemoteIterator, "object": RemoteObject}
        return kinds[form["t"]](self, int(form["handle"]), str(form["name"]), tuple(form["bases"]))


def _exception(name: str, message: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and its like want five arguments
            pass
    return SolutionError(f"{name}: {message}")


def _encode_argument(value: Any) -> Any:
    return exchange.encode(value, _argument_handle)


def _argument_handle(value: Any) -> Any:
    if isinstance(value, RemoteObject):
        return {"t": "object", "handle": value._remote_handle}
    raise Unjudgeable(f"a test hands the solution a {type(value).__name__}: only plain data can cross")


class RemoteObject:
    """An object that lives in the solution's process."""

    def __init__(self, link: Link, handle: int, name: str, bases: tuple[str, ...]) -> None:
        self._remote_link, self._remote_handle, self._remote_name, self._remote_bases = link, handle, name, bases

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it over there; changes to mutable arguments come back."""
        given = [*args, *kwargs.values()]
        answer = self._remote_link.ask(
            op="call",
            handle=self._remote_handle,
            args=[_encode_argument(value) for value in args],
            kwargs={name: _encode_argument(value) for name, value in kwargs.items()},
        )
        for index, form in answer.get("changed", {}).items():
            _overwrite(given[int(index)], self._remote_link.decode(form))
        return self._remote_link.decode(answer.get("value"))

    def __getattr__(self, name: str) -> Any:
        """Get an attribute; a method is a RemoteObject to call."""
        if name.startswith("_remote_"):
            raise AttributeError(name)
        return self._remote_link.decode(self._remote_link.ask(op="get", handle=self._remote_handle, name=name)["value"])

    def __bool__(self) -> bool:
        raise SolutionError(f"the solution returned a {self._remote_name}, which is no plain value")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteObject) and other._remote_handle == self._remote_handle

    def __hash__(self) -> int:
        return self._remote_handle

    def __len__(self) -> int:
        try:
            measure = self.__getattr__("__len__")
        except AttributeError:  # list() and its like ask everything for its length, and expect a TypeError then
            raise TypeError(f"object of type '{self._remote_name}' has no len()") from None
        return int(measure())

    def __str__(self) -> str:
        return str(self.__getattr__("__str__")())

    def __repr__(self) -> str:
        return f"<{self._remote_name} of the solution>"

    def __getitem__(self, key: Any) -> Any:
        return self.__getattr__("__getitem__")(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__getattr__("__setitem__")(key, value)

    def __contains__(self, item: Any) -> bool:
        return bool(self.__getattr__("__contains__")(item))

    def __iter__(self) -> Any:
        return self.__getattr__("__iter__")()


class RemoteIterator(RemoteObject):
    """An iterator of the solution, advanced over there."""

    def __iter__(self) -> RemoteIterator:
        return self

    def __next__(self) -> Any:
        return self._remote_link.decode(self._remote_link.ask(op="next", handle=self._remote_handle).get("value"))


class RemoteClass(RemoteObject):
    """A class of the solution: call it for an instance."""

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, RemoteObject) and self._remote_name in instance._remote_bases


def _overwrite(target: Any, value: Any) -> None:
    if type(target) is not type(value):
        raise SolutionError("the solution sent garbage")
    if isinstance(target, (list, bytearray)):
        target[:] = value
    else:
        target.clear()
        target.update(value)
