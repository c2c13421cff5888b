"""Runs inside the sandbox's checker, behind `runner.py` in the same namespace: tests here, the patched code elsewhere.

A test imports the patched modules as it always did. What it gets are stand-ins: each attribute is fetched, and each
call made, in the process that holds the patched tree. That process has no test, no expected value, and no part in the
verdict. Which names lead there, the trusted side says (`modules.py`); a patch can't move what the tests are made of.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class FarModule(ModuleType):
    """Stand-in of a module of the patched tree."""

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name)
        self.__dict__.update(_far=tree.load_far(name), _tree=tree)

    def __getattr__(self, name: str) -> Any:
        """Get an attribute of the module over there; a module of the tests within it is the one here."""
        tree, far, own = self.__dict__["_tree"], self.__dict__["_far"], self.__dict__["__name__"]
        if name == "__all__":
            if own not in tree.star:
                raise AttributeError(name)
            return [public for public in tree.star[own] if tree.is_near(f"{own}.{public}") or _has(far, public)]
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        if tree.is_near(f"{own}.{name}"):
            return importlib.import_module(f"{own}.{name}")
        return getattr(far, name)


def _has(far: Any, name: str) -> bool:
    try:
        getattr(far, name)
    except AttributeError:
        return False
    return True


class Tree:
    """Finds modules of the tests here and modules of the patched tree over there.

    Args:
        load_far: imports a module over there by its dotted name.
        near: dotted name -> text, of the tests and what belongs to them; folders of theirs have an empty text.
        far: dotted names that lead to the patched tree -> whether they are packages.
        star: far name -> names that `import *` takes from it.
    """

    def __init__(
        self,
        load_far: Callable[[str], Any],
        near: Mapping[str, tuple[str, bool]],
        far: Mapping[str, bool],
        star: Mapping[str, list[str]],
    ) -> None:
        self.load_far, self._near, self._far, self.star = load_far, near, far, star

    def is_near(self, name: str) -> bool:
        """Tell whether a name is a module or a folder of the tests."""
        return name in self._near

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module; see MetaPathFinder."""
        if fullname in self._near:
            return self._spec(fullname, self._near[fullname][1])
        return self._spec(fullname, self._far[fullname]) if fullname in self._far else None

    def _spec(self, name: str, package: bool) -> ModuleSpec:
        loader: Any = self  # by its methods; importlib.abc is slow to import
        return ModuleSpec(name, loader, is_package=package)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make the stand-in, or leave it to the import system for a module of the tests."""
        return None if spec.name in self._near else FarModule(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Run a module of the tests; a stand-in has been run over there."""
        if module.__name__ in self._near:
            text = self._near[module.__name__][0]
            exec(compile(text, module.__name__, "exec", dont_inherit=True), module.__dict__)


def use_tree(
    load_far: Callable[[str], Any],
    near: Mapping[str, tuple[str, bool]],
    first: Mapping[str, bool],
    last: Mapping[str, bool],
    star: Mapping[str, list[str]],
) -> None:
    """Make the tests' and the tree's modules importable.

    A name that the repository had (`first`) comes first, as in its folder. A top-level name that a patch brings
    (`last`) comes last: it can't take the place of a module that the tests may judge with.
    """
    tree = Tree(load_far, near, {**last, **first}, star)
    sys.meta_path.insert(0, _Only(tree, {name.partition(".")[0] for name in [*near, *first]}))
    sys.meta_path.append(_Only(tree, {name.partition(".")[0] for name in last}))


class _Only:
    """A tree's finder for some top-level names."""

    def __init__(self, tree: Tree, tops: set[str]) -> None:
        self._tree, self._tops = tree, tops

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module; see MetaPathFinder."""
        return self._tree.find_spec(fullname, path, target) if fullname.partition(".")[0] in self._tops else None
