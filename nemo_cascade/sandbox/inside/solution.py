"""The solution's process: load the program, then answer calls. It holds no test, no expected value, no secret."""

import builtins
import operator
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import exchange
from .foreign import Attempt
from .job import Job
from .python_program import execute, finish, fresh_module, guarded, prepare

_MODULE = "solution"


class _TestError(Exception):
    """What a function of the tests raised when the solution called it, where that is no built-in exception."""


class Answers:
    """Answers the checker's requests about a loaded module."""

    def __init__(self, connection: socket.socket, module: types.ModuleType) -> None:
        self._connection, self._module = connection, module
        self._objects: dict[int, Any] = {}
        self._callbacks: dict[int, Callable[..., Any]] = {}
        self._shared: set[str] = set()

    def serve(self) -> None:
        """Tell what the module defines, then answer until the checker hangs up."""
        self._send({"loaded": [name for name in vars(self._module) if isinstance(name, str)]})
        while True:
            try:
                request = exchange.receive(self._connection)
            except EOFError:
                return
            self._send(self._answer(request))

    def _send(self, message: Any) -> None:
        exchange.send(self._connection, message)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        with Attempt(BaseException, but=(SystemExit,)) as attempt:
            return self._obey(request)
        assert attempt.error is not None, "an answer that is none"
        return {"raised": _lineage(type(attempt.error)), "message": _message(attempt.error)}

    def _obey(self, request: dict[str, Any]) -> dict[str, Any]:
        asked = request["op"]
        if asked == "share":
            self._shared.update(request["classes"])
            return {}
        if asked == "global":
            return self._told(vars(self._module)[request["name"]])
        if asked == "operate":
            return self._told(getattr(operator, request["name"])(*self._given(request)))
        target = self._objects[request["handle"]]
        if asked == "set":
            setattr(target, request["name"], *self._given(request))
            return {}
        if asked == "get":
            return self._told(getattr(target, request["name"]))
        if asked == "next":
            return self._told(next(target))
        return self._call(target, request)

    def _given(self, request: dict[str, Any]) -> list[Any]:
        return exchange.unpack(request["args"], request["records"], self._blank, self._resolve)[0]

    def _told(self, value: Any) -> dict[str, Any]:
        forms, records = exchange.pack([value], self._class_of, self._handle, [])
        return {"value": forms[0], "records": records} if records else {"value": forms[0]}

    def _call(self, target: Any, request: dict[str, Any]) -> dict[str, Any]:
        """Call the target, and tell what it returned and which arguments it changed in place."""
        arguments, objects = exchange.unpack(request["args"], request["records"], self._blank, self._resolve)
        before, count = request["args"], request["count"]
        value = target(*arguments[:count], **dict(zip(request["names"], arguments[count:], strict=True)))
        mutable = [place for place, item in enumerate(arguments) if isinstance(item, list | dict | set | bytearray)]
        sent = len(objects)
        forms, records = exchange.pack(
            [value, *(arguments[place] for place in mutable)], self._class_of, self._handle, objects
        )
        changed = {place: form for place, form in zip(mutable, forms[1:], strict=True) if form != before[place]}
        answer: dict[str, Any] = {"value": forms[0]}
        if records:
            answer["records"] = records
            answer["renewed"] = [[name, attributes] for name, attributes in records[:sent]] != request["records"]
        return {**answer, "changed": changed} if changed else answer

    def _class_of(self, value: Any) -> str | None:
        name = type(value).__name__
        return name if name in self._shared and hasattr(value, "__dict__") else None

    def _blank(self, name: str) -> Any:
        self._shared.add(name)
        kind = vars(self._module).get(name)
        if not isinstance(kind, type):
            kind = type(name, (), {})
            setattr(self._module, name, kind)
        return object.__new__(kind)

    def _handle(self, value: Any) -> dict[str, Any]:
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"t": "exception", "lineage": _lineage(value)}
        self._objects[id(value)] = value
        kind = "iterator" if isinstance(value, Iterator) else "class" if isinstance(value, type) else "object"
        bases = [base.__qualname__ for base in type(value).__mro__]
        name = value.__qualname__ if isinstance(value, type) else type(value).__qualname__
        return {"t": kind, "handle": id(value), "name": name, "bases": bases}

    def _resolve(self, form: dict[str, Any]) -> Any:
        if form["t"] == "iterator":
            return iter([exchange.decode(item, self._resolve) for item in form["v"]])
        if form["t"] == "built-in":
            owner, _, name = form["v"].rpartition(".")
            return getattr(getattr(builtins, owner) if owner else builtins, name)
        if form["t"] == "callback":
            number = form["v"]
            return self._callbacks.setdefault(number, lambda *args: self._call_back(number, list(args)))
        return self._objects[form["handle"]]

    def _call_back(self, number: int, arguments: list[Any]) -> Any:
        """Call a function of the tests, which may ask for something meanwhile."""
        forms, records = exchange.pack([arguments], self._class_of, self._handle, [])
        self._send({"callback": number, "args": forms[0], "records": records})
        while "op" in (answer := exchange.receive(self._connection)):
            self._send(self._answer(answer))
        if "raised" in answer:
            kind = getattr(builtins, answer["raised"], _TestError)
            raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else _TestError)(answer["message"])
        return exchange.unpack([answer["value"]], answer["records"], self._blank, self._resolve)[0][0]


def _lineage(kind: type[BaseException]) -> list[tuple[int, str]]:
    """Return [handle, name] of an exception class and its bases, the base first; 0 is the handle of built-in ones."""
    found = []
    for one in reversed(kind.__mro__):
        if one is not object and issubclass(one, BaseException):
            found.append((0 if getattr(builtins, one.__name__, None) is one else id(one), one.__name__))
    return found


def _message(error: BaseException) -> str:
    """Return the text of an exception; KeyError's own would quote it."""
    with Attempt(Exception) as attempt:
        return str(error.args[0] if len(error.args) == 1 else error)[:2000]
    return type(attempt.error).__name__


def run(job: Job, started: Callable[[], None]) -> None:
    """Load the job's entry file and answer calls on the descriptor `peer`. Never returns."""
    finish(perform(job, started))


def perform(job: Job, started: Callable[[], None]) -> int:
    """Load the job's entry file and answer calls until the checker hangs up; return the exit status."""
    connection = socket.socket(fileno=job.descriptors["peer"])
    entry = job.header["entry"]
    exchange.allow_long_integers()
    sys.argv = [entry]
    source = job.files[entry]
    module = fresh_module(_MODULE, entry, source)
    prepare(job.header, module)

    def load_and_serve() -> None:
        execute(source, entry, module)
        Answers(connection, module).serve()

    started()
    return guarded(load_and_serve)
