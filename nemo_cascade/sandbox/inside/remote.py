"""The checker's stand-ins for what lives in the solution's process. None of them lets the solution decide a comparison.

A stand-in is equal to no plain value, nor less or greater, and no arithmetic makes a plain value of it, so neither `==`
nor a tolerance can be answered by the solution's code, and `in` looks through what iterating yields: a test that knows
the right value passes on that value only. Two objects of the solution are compared by its own operators, and it says
whether an object is true: that is what the test of a class tests, and a solution that answers as it likes gains nothing
over one that returns the same constant each time. `!=` is what `==` isn't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .link import Link

_MOST_SEARCHED = 1_000_000
_ARITHMETIC = "add sub mul truediv floordiv mod pow"
_COMPARISONS = "lt le gt ge"
_UNARY = "neg pos abs invert"


class SolutionError(Exception):
    """The solution did what no plain value does, or raised what a test must not be misled by."""


class SolutionGoneError(BaseException):
    """The solution broke off or sent garbage: no test that expects an exception may be content with that."""


class Unjudgeable(BaseException):
    """The test needs something that can't cross to the solution's process: the test's fault, not the solution's."""


class RemoteObject:
    """An object that lives in the solution's process."""

    def __init__(self, link: Link, handle: int, name: str, bases: tuple[str, ...]) -> None:
        self._remote_link, self._remote_handle, self._remote_name, self._remote_bases = link, handle, name, bases

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it over there."""
        return self._remote_link.call(self._remote_handle, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Get an attribute; a method is a RemoteObject to call."""
        if name.startswith("_remote_"):
            raise AttributeError(name)
        return self._remote_link.value(op="get", handle=self._remote_handle, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute over there."""
        if name.startswith("_remote_"):
            super().__setattr__(name, value)
        else:
            self._remote_link.put(self._remote_handle, name, value)

    def __bool__(self) -> bool:
        return self._remote_link.operate("truth", self) is True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RemoteObject):
            return False
        return other._remote_handle == self._remote_handle or self._remote_link.operate("eq", self, other) is True

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
        return str(self.__getattr__("__repr__")())

    def __getitem__(self, key: Any) -> Any:
        return self.__getattr__("__getitem__")(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__getattr__("__setitem__")(key, value)

    def __contains__(self, item: Any) -> bool:
        for count, found in enumerate(self):
            if found is item or found == item:
                return True
            if count >= _MOST_SEARCHED:
                break
        return False

    def __iter__(self) -> Any:
        return self.__getattr__("__iter__")()


class RemoteIterator(RemoteObject):
    """An iterator of the solution, advanced over there."""

    def __iter__(self) -> RemoteIterator:
        return self

    def __next__(self) -> Any:
        return self._remote_link.value(op="next", handle=self._remote_handle)


class RemoteClass(RemoteObject):
    """A class of the solution: call it for an instance."""

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, RemoteObject) and self._remote_name in instance._remote_bases


def _arithmetic(operator: str, reflected: bool) -> Any:
    def apply(self: RemoteObject, other: object) -> Any:
        found = self._remote_link.operate(operator, *((other, self) if reflected else (self, other)))
        if isinstance(found, RemoteObject) or isinstance(other, RemoteObject):
            return found
        raise TypeError(f"a {self._remote_name} of the solution and a value of the test make no object")

    return apply


def _comparison(operator: str) -> Any:
    def apply(self: RemoteObject, other: object) -> Any:
        return self._remote_link.operate(operator, self, other) if isinstance(other, RemoteObject) else NotImplemented

    return apply


def _unary(operator: str) -> Any:
    def apply(self: RemoteObject) -> Any:
        found = self._remote_link.operate(operator, self)
        if not isinstance(found, RemoteObject):
            raise TypeError(f"`{operator}` of a {self._remote_name} of the solution is no object")
        return found

    return apply


for _name in _ARITHMETIC.split():
    setattr(RemoteObject, f"__{_name}__", _arithmetic(_name, reflected=False))
    setattr(RemoteObject, f"__r{_name}__", _arithmetic(_name, reflected=True))
for _name in _COMPARISONS.split():
    setattr(RemoteObject, f"__{_name}__", _comparison(_name))
for _name in _UNARY.split():
    setattr(RemoteObject, f"__{_name}__", _unary(_name))
