"""Runs inside the sandbox's checker, behind `runner.py` in the same namespace: tests here, the patched code elsewhere.

A test imports the patched modules as it always did. What it gets are stand-ins: each attribute is fetched, and each
call made, in the process that holds the patched tree. That process has no test, no expected value, and no part in the
verdict.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_FORWARDED = ("__all__", "__version__")


class FarModule(ModuleType):
    """Stand-in of a module of the patched tree."""

    def __init__(self, name: str, far: Any) -> None:
        super().__init__(name)
        self.__dict__["_far"] = far

    def __getattr__(self, name: str) -> Any:
        """Get an attribute of the module over there."""
        if name.startswith("__") and name not in _FORWARDED:
            raise AttributeError(name)
        return getattr(self.__dict__["_far"], name)


class Tree(MetaPathFinder, Loader):
    """Finds modules of the tests here and modules of the patched tree over there.

    Args:
        load_far: imports a module over there by its dotted name.
        near: dotted name -> text, of the tests and what belongs to them.
        far: dotted names of the patched tree.
        tops: first parts of the names that are looked for.
    """

    def __init__(self, load_far: Callable[[str], Any], near: Mapping[str, str], far: set[str], tops: set[str]) -> None:
        self._load_far, self._near, self._far, self._tops = load_far, near, far, tops
        self._packages = {name.rpartition(".")[0] for name in [*near, *far]}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module; see MetaPathFinder."""
        if fullname.partition(".")[0] not in self._tops:
            return None
        package = fullname in self._packages or f"{fullname}.__init__" in {*self._near, *self._far}
        if package or fullname in self._near or fullname in self._far:
            return ModuleSpec(fullname, self, is_package=package)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make the stand-in, or leave it to the import system for a module of the tests."""
        return None if self._text(spec.name) is not None else FarModule(spec.name, self._load_far(spec.name))

    def exec_module(self, module: ModuleType) -> None:
        """Run a module of the tests; a stand-in has been run over there."""
        text = self._text(module.__name__)
        if text is not None:
            exec(compile(text, module.__name__, "exec", dont_inherit=True), module.__dict__)

    def _text(self, name: str) -> str | None:
        near = self._near.get(name, self._near.get(f"{name}.__init__"))
        if near is None and name not in self._far and f"{name}.__init__" not in self._far:
            inside = [other for other in self._far if other.startswith(f"{name}.")]
            return None if inside else ""  # a folder of tests alone
        return near


def use_tree(load_far: Callable[[str], Any], near: Mapping[str, str], far: list[str], own: list[str]) -> None:
    """Make the tests' and the tree's modules importable.

    A name that the repository had (`own`) comes first, as in its folder. A name that only the patch brings comes last:
    it can't take the place of a module that the tests may judge with.
    """
    everything = {name.partition(".")[0] for name in [*near, *far]}
    sys.meta_path.insert(0, Tree(load_far, near, set(far), {name.partition(".")[0] for name in [*near, *own]}))
    sys.meta_path.append(Tree(load_far, near, set(far), everything))
