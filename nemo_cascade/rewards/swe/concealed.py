"""Runs inside the sandbox, before a test that a policy wrote: modules that can be imported and called, not looked at.

The test must tell a wrong tree from a right one by what the code does. So no source lies on disk, `inspect` finds none,
all code stands on line 1, and an audit hook, which nothing can take out, refuses the ways to a function's code, to
frames' code, to all objects, and to the machine below (ctypes, /proc). Code of the standard library and of the tree
itself may look (dataclasses, mocks and signatures need to); the test's own may not. What remains visible is what a
caller may know: names, signatures, docstrings, defaults, exceptions and their texts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

_LOAD = "load.concealed"
_CODE = frozenset({"__code__", "f_code", "gi_code", "cr_code", "ag_code"})
_REFUSED = frozenset({
    "gc.get_objects", "gc.get_referents", "gc.get_referrers", "sys.settrace", "sys.setprofile",
    "sys.monitoring.register_callback", "marshal.loads", "marshal.load", "sys._current_frames",
})  # fmt: skip
# Other programs have no such hook, and could read this one's memory; nobody starts them here.
_NEVER = frozenset({"sys.addaudithook", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen", "pty.spawn"})
_NO_MODULES = frozenset({"ctypes", "_ctypes", "_xxsubinterpreters", "_testcapi", "_testinternalcapi", "_interpreters"})
# Functions of the standard library that hand a function's code on to whoever asks.
_TELLTALES = frozenset({"getmembers", "_getmembers", "getattr_static", "getclosurevars", "_check_instance"})
_LINE_ONE, _UNITS = 0x80 | 13 << 3, 8  # "no column" entries of a location table: so many code units at most, same line


def without_lines(code: CodeType) -> CodeType:
    """Return code whose every instruction stands on line 1."""
    units = len(code.co_code) // 2
    entries = [min(_UNITS, units - start) for start in range(0, units, _UNITS)]
    table = b"".join(bytes((_LINE_ONE | (entry - 1), 0)) for entry in entries)
    inner = tuple(without_lines(part) if isinstance(part, CodeType) else part for part in code.co_consts)
    return code.replace(co_linetable=table, co_firstlineno=1, co_consts=inner)


class Concealed:
    """Finds the tree's modules; what is in them only the audit hook knows.

    Args:
        packages: dotted name -> whether it is a package.
        paths: dotted name -> path of its file, absent for folders.
    """

    def __init__(self, packages: Mapping[str, bool], paths: Mapping[str, str]) -> None:
        self._packages, self._paths = packages, paths

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module; see MetaPathFinder."""
        if fullname not in self._packages:
            return None
        place = os.path.abspath(self._paths.get(fullname, fullname.replace(".", "/")))
        loader: Any = self  # by its methods; importlib.abc is slow to import
        spec = ModuleSpec(fullname, loader, origin=place, is_package=self._packages[fullname])
        spec.has_location = fullname in self._paths
        if self._packages[fullname]:
            spec.submodule_search_locations = [os.path.dirname(place) if spec.has_location else place]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the module to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Have the hook run the module."""
        sys.audit(_LOAD, module)


def conceal(sources: dict[str, str], packages: Mapping[str, bool], paths: Mapping[str, str], shown: str) -> None:
    """Make modules importable without a way to their code.

    Args:
        sources: path -> text of the tree's Python files; it is emptied as they are loaded.
        packages: dotted name -> whether it is a package.
        paths: dotted name -> path.
        shown: the path whose lines may be known: the test's own file.
    """
    import _posixsubprocess  # what starts programs beneath subprocess, and tells no audit hook

    _posixsubprocess.fork_exec = _refuse
    sys.meta_path.insert(0, Concealed(packages, paths))
    sys.addaudithook(_hook(sources, dict(paths), shown))


def _refuse(*_: Any) -> int:
    raise PermissionError("a test must not start programs")


def _hook(sources: dict[str, str], paths: dict[str, str], shown: str) -> Callable[[str, tuple[Any, ...]], None]:
    library = (os.path.dirname(os.__file__) + "/", "<frozen ", "<tools of the sandbox>")
    tree = tuple(f"<{path}>" for path in sources if path != shown)
    looking = False
    get_frame, length = sys._getframe, len

    def load(module: ModuleType) -> None:
        nonlocal looking
        path = paths.get(module.__name__)
        text = sources.pop(path, None) if path is not None else None
        if path is None or text is None:
            return
        looking = True
        try:
            code = compile(text, path if path == shown else f"<{path}>", "exec", dont_inherit=True)
            code = code if path == shown else without_lines(code)
        finally:
            looking = False
        exec(code, module.__dict__)

    def asked_by_the_test(depth: int) -> bool:
        frame = get_frame(depth)
        name = frame.f_code.co_filename
        if not name.startswith(library):
            return name not in tree
        return frame.f_code.co_name in _TELLTALES or name.endswith(("/dis.py", "/pickletools.py"))

    def refused(event: str, args: tuple[Any, ...]) -> bool:
        if event == "object.__getattr__":
            return length(args) > 1 and args[1] in _CODE
        if event == "import":
            return args[0] in _NO_MODULES
        if event == "open":
            return str(args[0]).startswith(("/proc", "/dev/mem", "b'/proc"))
        if event in ("compile", "code.__new__"):
            name = args[1]
            return isinstance(name, str) and (name.startswith(library) or name in tree)
        return event in _REFUSED or event in _NEVER

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal looking
        if looking:
            return
        if event == _LOAD:
            load(args[0])
        elif refused(event, args):
            looking = True
            try:
                told = event in _NEVER or asked_by_the_test(2)
            finally:
                looking = False
            if told:
                raise PermissionError(f"a test must not look at the code that it tests ({event})")

    return hook
