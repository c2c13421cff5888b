"""The solution's process: load the program, then answer calls. It holds no test, no expected value, no secret."""

from __future__ import annotations

import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import exchange
from .job import Job
from .python_program import execute, finish, fresh_module, guarded

_MODULE = "solution"


class Answers:
    """Answers the checker's requests about a loaded module."""

    def __init__(self, connection: socket.socket, module: types.ModuleType) -> None:
        self._connection, self._module = connection, module
        self._objects: dict[int, Any] = {}

    def serve(self) -> None:
        """Tell what the module defines, then answer until the checker hangs up."""
        public = {name: value for name, value in vars(self._module).items() if not name.startswith("__")}
        self._send({"loaded": {name: self._encode(value) for name, value in public.items()}})
        while True:
            try:
                request = exchange.receive(self._connection)
            except EOFError:
                return
            self._send(self._answer(request))

    def _send(self, message: Any) -> None:
        exchange.send(self._connection, message)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            target = self._objects[request["handle"]]
            if request["op"] == "get":
                return {"value": self._encode(getattr(target, request["name"]))}
            if request["op"] == "next":
                return {"value": self._encode(next(target))}
            forms = [*request["args"], *request["kwargs"].values()]
            arguments = [exchange.decode(form, self._resolve) for form in forms]
            count = len(request["args"])
            value = target(*arguments[:count], **dict(zip(request["kwargs"], arguments[count:], strict=True)))
            answer = {"value": self._encode(value)}
            changed = self._changed(forms, arguments)
            return {**answer, "changed": changed} if changed else answer
        except SystemExit:
            raise
        except BaseException as error:
            return {"raised": type(error).__name__, "message": str(error)[:2000]}

    def _changed(self, forms: list[Any], arguments: list[Any]) -> dict[int, Any]:
        """Return the new forms of the mutable arguments that the call changed in place."""
        after = {
            index: self._encode(argument)
            for index, argument in enumerate(arguments)
            if isinstance(argument, (list, dict, set, bytearray))
        }
        return {index: form for index, form in after.items() if form != forms[index]}

    def _encode(self, value: Any) -> Any:
        return exchange.encode(value, self._handle)

    def _handle(self, value: Any) -> dict[str, Any]:
        self._objects[id(value)] = value
        kind = "iterator" if isinstance(value, Iterator) else "class" if isinstance(value, type) else "object"
        bases = [base.__qualname__ for base in type(value).__mro__]
        name = value.__qualname__ if isinstance(value, type) else type(value).__qualname__
        return {"t": kind, "handle": id(value), "name": name, "bases": bases, "callable": callable(value)}

    def _resolve(self, form: dict[str, Any]) -> Any:
        return self._objects[form["handle"]]


def run(job: Job, started: Callable[[], None]) -> None:
    """Load the job's entry file and answer calls on the descriptor `peer`. Never returns."""
    connection = socket.socket(fileno=job.descriptors["peer"])
    entry = job.header["entry"]
    exchange.allow_long_integers()
    sys.argv = [entry]
    source = job.files[entry]
    module = fresh_module(_MODULE, entry, source)

    def load_and_serve() -> None:
        execute(source, entry, module)
        Answers(connection, module).serve()

    started()
    finish(guarded(load_and_serve))
