"""The checker's end of the connection to the solution: requests, answers, and what tests hand over.

A change that a call makes in its arguments takes effect at once where the call returns nothing, as in `f(data)`. Where
it returns something, it takes effect when the test's statement is over (and what compares the result with the argument,
see sandbox/releasing.py), or when the test hands the argument to the solution again: `assert f(data) == sorted(data)`
compares with what the test wrote, not with what the call left of it.
"""

import builtins
import socket
import types
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, cast

from . import exchange
from .foreign import Attempt
from .remote import RemoteClass, RemoteIterator, RemoteObject, SolutionError, SolutionGoneError, Unjudgeable

_MOST_HANDED_ITEMS = 1_000_000
_ENDS_OF_LOOPS = (StopIteration, StopAsyncIteration, GeneratorExit)
_ONE_WAY: tuple[type, ...] = (Iterator, type({}.keys()), type({}.values()), type({}.items()))
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, type)


class Held(list[Callable[[], None]]):
    """Changes of arguments that are still to take effect."""

    def release(self) -> None:
        """Let them take effect."""
        changes, self[:] = list(self), []
        for change in changes:
            change()


class Link:
    """The checker's end of the connection to the solution.

    Attributes:
        held: see the module.
        classes: classes of the tests; their objects travel as records.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._exceptions: dict[str, type[Exception]] = {}
        self._callables: list[Callable[..., Any]] = []
        self._held_for: set[int] = set()
        self.held = Held()
        self.classes: dict[str, type] = {}

    def loaded(self) -> set[str]:
        """Wait for the solution to load; return the names that it defines."""
        names = self._receive()["loaded"]
        return {str(name) for name in names} if isinstance(names, list) else set()

    def share(self, classes: Iterable[type]) -> None:
        """Tell the solution which of its objects travel as records: those of classes that derive from no other."""
        plain = {kind.__name__: kind for kind in classes if kind.__bases__ == (object,)}
        if plain.keys() - self.classes.keys():
            self.ask(op="share", classes=list(plain))
        self.classes |= plain

    def value(self, **request: Any) -> Any:
        """Send a request without arguments and return the value that answers it."""
        answer = self.ask(**request)
        return self._decode([answer.get("value")], answer.get("records", []))[0][0]

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer; what the solution raised is raised here."""
        try:
            exchange.send(self._connection, request)
            while "callback" in (answer := self._receive()):
                exchange.send(self._connection, self._called_back(answer))
        except OSError as error:
            raise SolutionGoneError("the solution has ended") from error
        if "raised" in answer:
            raise self._exception(answer["raised"], str(answer.get("message", "")), iterating=request["op"] == "next")
        return answer

    def operate(self, operator: str, *operands: Any) -> Any:
        """Return what an operator makes of objects of the solution, and values."""
        forms, records = exchange.pack(list(operands), self._class_of, self._handle, [])
        return self.value(op="operate", name=operator, args=forms, records=records)

    def put(self, handle: int, name: str, value: Any) -> None:
        """Set an attribute of an object of the solution."""
        forms, records = exchange.pack([value], self._class_of, self._handle, [])
        self.ask(op="set", handle=handle, name=name, args=forms, records=records)

    def call(self, handle: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call something of the solution with values of the test; see the module for changes in them."""
        given = [*args, *kwargs.values()]
        if self._held_for & {id(value) for value in given}:
            self.held.release()
        sent: list[Any] = []
        forms, records = exchange.pack(given, self._class_of, self._handle, sent)
        answer = self.ask(op="call", handle=handle, args=forms, count=len(args), names=list(kwargs), records=records)
        changed = answer.get("changed", {})
        forms = [answer.get("value"), *(changed.values() if isinstance(changed, dict) else ())]
        [value, *news], objects = self._decode(forms, answer.get("records", []))
        targets = [given[int(place)] for place in changed if str(place).isdigit() and int(place) < len(given)]

        def change() -> None:
            for target, new in zip(targets, news, strict=False):
                _overwrite(target, new)
            _renew(sent, objects)
            self._held_for.clear()

        if value is None:
            change()
        elif changed or answer.get("renewed"):
            self.held.append(change)
            self._held_for |= {id(item) for item in (*given, *sent)}
        return value

    def _decode(self, forms: list[Any], records: Any) -> tuple[list[Any], list[Any]]:
        """Return the values of forms and the objects of their records."""
        with Attempt(Exception) as attempt:  # whatever makes a form unreadable is the solution's doing
            values, objects = exchange.unpack(forms, records, self._blank, self._stand_in)
        if attempt.error is not None:
            raise SolutionGoneError(f"the solution sent garbage: {type(attempt.error).__name__}") from attempt.error
        for item in objects:
            if any(callable(getattr(type(item), name, None)) for name in vars(item)):
                raise SolutionGoneError("the solution sent an object whose methods are its own")
        return values, objects

    def _receive(self) -> dict[str, Any]:
        try:
            answer = exchange.receive(self._connection)
        except (EOFError, OSError) as error:
            raise SolutionGoneError("the solution has ended") from error
        except (ValueError, RecursionError, MemoryError) as error:  # any garbage is the solution's fault
            raise SolutionGoneError(f"the solution sent garbage: {error}") from error
        if not isinstance(answer, dict):
            raise SolutionGoneError("the solution sent garbage")
        return answer

    def _class_of(self, value: Any) -> str | None:
        name = type(value).__name__
        return name if self.classes.get(name) is type(value) and hasattr(value, "__dict__") else None

    def _blank(self, name: str) -> Any:
        return object.__new__(self.classes[name])

    def _stand_in(self, form: dict[str, Any]) -> Any:
        if form["t"] == "exception":
            return self._exception_class(form["lineage"])
        kinds = {"class": RemoteClass, "iterator": RemoteIterator, "object": RemoteObject}
        return kinds[form["t"]](self, int(form["handle"]), str(form["name"]), tuple(map(str, form["bases"])))

    def _handle(self, value: Any) -> Any:
        """Return the form of what a test hands over that is no plain value."""
        if isinstance(value, RemoteObject):
            return {"t": "object", "handle": value._remote_handle}
        if isinstance(value, _ONE_WAY) and type(value).__module__ in ("builtins", "itertools"):  # no open file
            items = list(islice(cast("Iterable[Any]", value), _MOST_HANDED_ITEMS))
            forms, records = exchange.pack(items, self._class_of, self._handle, [])
            if records:
                raise Unjudgeable("a test hands the solution an iterator of objects: only plain data can cross")
            return {"t": "iterator", "v": forms}
        if isinstance(value, _BUILT_IN) and getattr(value, "__module__", "builtins") == "builtins":
            return {"t": "built-in", "v": value.__qualname__}
        if callable(value):
            known = [place for place, one in enumerate(self._callables) if one is value]
            if not known:
                self._callables.append(value)
            return {"t": "callback", "v": known[0] if known else len(self._callables) - 1}
        raise Unjudgeable(f"a test hands the solution a {type(value).__name__}: only plain data can cross")

    def _called_back(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call a function that a test handed over, with plain values of the solution."""
        arguments = self._decode([request.get("args")], request.get("records", []))[0][0]
        with Attempt(Exception) as attempt:
            value = self._callables[int(request["callback"])](*arguments)
            forms, records = exchange.pack([value], self._class_of, self._handle, [])
            return {"value": forms[0], "records": records}
        return {"raised": type(attempt.error).__name__, "message": str(attempt.error)[:2000]}

    def _exception(self, lineage: Any, message: str, iterating: bool) -> Exception:
        kind = self._exception_class(lineage)
        if issubclass(kind, _ENDS_OF_LOOPS) and not iterating:  # it would end the test's own map() or for, unseen
            return SolutionError(f"the solution raised {kind.__name__}")
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and its like want five arguments
            return SolutionError(f"{kind.__name__}: {message}")

    def _exception_class(self, lineage: Any) -> type[Exception]:
        """Return the stand-in of an exception class: built-in ones are themselves, others derive from theirs.

        Args:
            lineage: [handle, name] from the base to the class; the handle is 0 for built-in classes.
        """
        kind: type[Exception] = SolutionError
        for handle, name in lineage if isinstance(lineage, list) else []:
            if not handle:
                known = getattr(builtins, str(name), None)
                kind = known if isinstance(known, type) and issubclass(known, Exception) else kind
            else:
                kind = self._exceptions.setdefault(str(handle), type(str(name), (kind,), {}))
        return kind


def _renew(objects: list[Any], renewed: list[Any]) -> None:
    """Give objects of the test the attributes that the solution left them with, pointing to one another as they do."""
    mine = {id(new): old for old, new in zip(objects, renewed, strict=False)}
    for old, new in zip(objects, renewed, strict=False):
        attributes = {name: mine.get(id(value), value) for name, value in vars(new).items()}
        vars(old).clear()
        vars(old).update(attributes)


def _overwrite(target: Any, value: Any) -> None:
    if type(target) is not type(value):
        raise SolutionGoneError("the solution sent garbage")
    if isinstance(target, (list, bytearray)):
        target[:] = value
    else:
        target.clear()
        target.update(value)
