"""Runs inside the sandbox, before a test that a policy wrote: modules that can be imported and called, not looked at.

The test must tell a wrong tree from a right one by what the code does. So no source lies on disk or in the process:
each module is compiled before the test's process is forked, with all code on line 1, and is held by a function that
runs it. An audit hook, which nothing can take out, refuses the ways to a function's code, to frames' code, to all
objects, to traces, and to the machine below (ctypes, /proc). Code of the standard library and of the tree may look
where its own text says so (signatures, mocks, tracebacks need to), not where it is told at run time what to get.

What remains visible is what a caller may know: names, signatures, docstrings, defaults, exceptions and their texts.
What one process can't hide: memory that numpy reads beyond an array's end, and what a test sees that puts its own
functions in the place of those which the library looks with.
"""

import builtins
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import CodeType, FunctionType, ModuleType
from typing import Any

_CODE = frozenset({"__code__", "f_code", "gi_code", "cr_code", "ag_code"})
# Other programs have no such hook, and could read this one's memory; nobody starts them here.
_REFUSED = frozenset({
    "gc.get_objects", "gc.get_referents", "gc.get_referrers", "sys.settrace", "sys.setprofile",
    "sys.monitoring.register_callback", "sys._current_frames", "sys.addaudithook",
    "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen", "pty.spawn",
})  # fmt: skip
_NO_MODULES = frozenset({"ctypes", "_ctypes", "_xxsubinterpreters", "_testcapi", "_testinternalcapi", "_interpreters"})
# Modules that look at code, and words of texts that need each: they are loaded before a test runs, once for all runs.
_LOOKING = {
    "inspect": "inspect", "logging": "logging|unittest|concurrent|multiprocessing|numpy", "dataclasses": "dataclass",
    "unittest": "unittest", "unittest.mock": "mock", "doctest": "doctest", "asyncio": "async",
    "numpy.testing": "numpy", "pytest": "pytest",
}  # fmt: skip
_BESIDE = ("asyncio.coroutines", "asyncio.base_events", "asyncio.format_helpers")
# What looks in modules that are always there: to walk through all of these would copy many pages in each run.
_ALWAYS = {
    "traceback": ("StackSummary", "_walk_tb_with_full_positions"),
    "types": ("coroutine",),
    "typing": ("overload",),
}
# The first hand on what they see; the last asks all attributes whether they are coroutines.
_TELLTALES, _HARMLESS = frozenset({"getclosurevars", "gi_code", "cr_code"}), "_mock_add_spec"
_LINE_ONE, _UNITS = 0x80 | 13 << 3, 8  # "no column" entries of a location table: so many code units at most, same line

Body = tuple[ModuleType, FunctionType]
"""A module, and the function that runs its text in it."""


def without_lines(code: CodeType) -> CodeType:
    """Return code whose every instruction stands on line 1."""
    units = len(code.co_code) // 2
    entries = [min(_UNITS, units - start) for start in range(0, units, _UNITS)]
    table = b"".join(bytes((_LINE_ONE | (entry - 1), 0)) for entry in entries)
    inner = tuple(without_lines(part) if isinstance(part, CodeType) else part for part in code.co_consts)
    return code.replace(co_linetable=table, co_firstlineno=1, co_consts=inner)


def hidden(sources: Mapping[str, str], paths: Mapping[str, str], shown: str) -> dict[str, Body]:
    """Return dotted name -> body of a tree's modules.

    Args:
        sources: path -> text.
        paths: dotted name -> path.
        shown: the path whose lines may be known: the test's own file.
    """
    bodies = {}
    for name, path in paths.items():
        module = ModuleType(name)
        vars(module)["__builtins__"] = builtins
        try:
            code = compile(sources[path], path if path == shown else f"<{path}>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # without the line that it would show
            code = compile(f"raise SyntaxError('{name} is no Python')", f"<{path}>", "exec")
        bodies[name] = (module, FunctionType(code if path == shown else without_lines(code), vars(module)))
    return bodies


def load_mentioned(texts: Iterable[str]) -> None:
    """Load modules that look at code and that texts seem to need."""
    words = " ".join(texts)
    for module, known in _LOOKING.items():
        if any(word in words for word in known.split("|")):
            with suppress(ImportError):
                __import__(module)


def lookers(own: Iterable[FunctionType], trees: Iterable[Mapping[str, Body]], shown: str) -> frozenset[CodeType]:
    """Return the code that may look at code: the library's, ours and the trees', where it names what it looks at.

    Args:
        own: our functions.
        trees: all bodies.
        shown: the path of the test, which may not look.
    """
    modules = [vars(sys.modules[name]) for name in (*_LOOKING, *_BESIDE) if name in sys.modules]
    values = [value for module in modules for value in list(module.values())]
    values += [vars(sys.modules[name]).get(part) for name, parts in _ALWAYS.items() for part in parts]
    codes = [code for value in (*values, *own) for code in _codes_of(value, 0)]
    codes += [body.__code__ for tree in trees for _, body in tree.values()]
    return frozenset(part for code in codes if code.co_filename != shown for part in _within(code) if _looks(part))


def _codes_of(value: Any, depth: int) -> Iterator[CodeType]:
    if isinstance(value, FunctionType):
        yield value.__code__
        yield from _codes_of(getattr(value, "__wrapped__", None), depth)
    elif isinstance(value, (staticmethod, classmethod)):
        yield from _codes_of(value.__func__, depth)
    elif isinstance(value, property):
        yield from _codes_of(value.fget, depth)
    elif isinstance(value, type) and depth < 3:
        for item in list(vars(value).values()):
            yield from _codes_of(item, depth + 1)


def _within(code: CodeType) -> Iterator[CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _within(part)


def _looks(code: CodeType) -> bool:
    if code.co_name == _HARMLESS:
        return True
    named = not _CODE.isdisjoint(code.co_names) or any(type(part) is str and part in _CODE for part in code.co_consts)
    return named and code.co_name not in _TELLTALES


class Concealed:
    """Finds the tree's modules.

    Args:
        bodies: of the tree, from `hidden`.
        packages: dotted name -> whether it is a package.
        paths: dotted name -> path of its file, absent for folders.
    """

    def __init__(self, bodies: Mapping[str, Body], packages: Mapping[str, bool], paths: Mapping[str, str]) -> None:
        self._bodies, self._packages, self._paths = bodies, packages, paths

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

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module that waits for its text, or leave a folder's to the import system."""
        return self._bodies[spec.name][0] if spec.name in self._bodies else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's text."""
        if module.__name__ in self._bodies:
            self._bodies[module.__name__][1]()


def conceal(
    bodies: Mapping[str, Body], packages: Mapping[str, bool], paths: Mapping[str, str], may_look: frozenset[CodeType]
) -> None:
    """Make modules importable without a way to their code.

    Args:
        bodies: of the tree, from `hidden`.
        packages: dotted name -> whether it is a package.
        paths: dotted name -> path.
        may_look: from `lookers`.
    """
    import _posixsubprocess  # what starts programs beneath subprocess, and tells no audit hook

    _posixsubprocess.fork_exec = _refuse
    for name in [name for name in sys.modules if name.partition(".")[0] in _NO_MODULES]:
        del sys.modules[name]  # the sandbox has them loaded
    sys.meta_path.insert(0, Concealed(bodies, packages, paths))
    sys.addaudithook(_hook(may_look))


def _refuse(*_: Any) -> int:
    raise PermissionError("a test must not start programs")


def _hook(may_look: frozenset[CodeType]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return the hook. It uses no name that a test could bind anew, keeps no state, and calls nothing of a test's."""
    codes, refused, no_modules, text = _CODE, _REFUSED, _NO_MODULES, str
    get_frame, kind, length, problem = sys._getframe, type, len, PermissionError
    own: dict[str, Any] = {"__builtins__": {}}

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "object.__getattr__":
            if length(args) != 2 or kind(args[1]) is not text or args[1] not in codes:
                return
            frame = get_frame(1)
            if frame.f_globals is own or frame.f_code in may_look:
                return
        elif event == "import":
            if kind(args[0]) is text and args[0] not in no_modules:
                return
        elif event == "open":
            if kind(args[0]) is not text or not args[0].startswith(("/proc", "/dev/mem")):
                return
        elif event not in refused:
            return
        raise problem(f"a test must not look at the code that it tests ({event})")

    return FunctionType(hook.__code__, own, "hook", None, hook.__closure__)
