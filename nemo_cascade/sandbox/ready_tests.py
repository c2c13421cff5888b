"""Make tests ready for the checker: which names they may have of the solution, what they run, when changes take effect.

All of it is read off the tests before any solution is seen, so no solution has a say in it.
"""

import ast
import builtins
import functools
import marshal
import re
import symtable
from collections.abc import Iterator
from typing import NamedTuple

from nemo_cascade.sandbox.provided import source_of
from nemo_cascade.sandbox.releasing import releasing

_ENTRY = re.compile(r"[A-Za-z_]\w*(?:\(\))?(?:\.[A-Za-z_]\w*(?:\(\))?)*")
# A test that calls nothing but built-in and library functions is about one of them, and rather not about these.
_WRAPPERS = (
    "abs all allclose any approx array_equal bool Counter dict enumerate filter float frozenset int isclose isinstance "
    "len list map next print range repr reversed round set sorted str tuple type zip"
)


class UnjudgeableTestsError(ValueError):
    """Tests that can't be run, whatever the solution."""


class ReadyTests(NamedTuple):
    """Tests as the checker gets them.

    Attributes:
        setup: code that runs once.
        tests: code of each test.
        runs: for each test the functions and classes that are to be run after it, as pytest would.
        wanted: names that come from the solution.
        library: (name, module, name in it) of what comes from the library, though the tests don't import it.
        modules: modules of which the tests believe that they are the solution.
        unittest: they use it.
    """

    setup: bytes
    tests: tuple[bytes, ...]
    runs: tuple[tuple[str, ...], ...]
    wanted: tuple[str, ...]
    library: tuple[tuple[str, str, str], ...]
    modules: tuple[str, ...]
    unittest: bool


@functools.lru_cache(maxsize=256)
def ready_tests(tests: tuple[str, ...], entry_point: str, setup: str, modules: tuple[str, ...]) -> ReadyTests:
    """Make tests ready; a group of responses needs it once.

    Raises:
        UnjudgeableTestsError: a text that isn't Python, or an entry point that is none.
    """
    if entry_point and not _ENTRY.fullmatch(entry_point):
        raise UnjudgeableTestsError(f"no entry point: {entry_point!r}")
    trees = [_parsed(text, "test") for text in tests]
    of_setup = _parsed(setup, "setup")
    common = _Names(setup)
    each = [_Names(text) for text in tests]
    free = {name for one in (common, *each) for name in one.used - one.bound - common.bound}
    free |= {entry_point.partition(".")[0].partition("(")[0]} - {""}
    subjects = _subjects(entry_point, trees, free)
    ours = {name for name in free - subjects if hasattr(builtins, name)}
    library = {name: source for name in free - subjects - ours if (source := source_of(name)) is not None}
    wanted = {name for name in free - ours - library.keys() if not name.startswith("__")}
    both = zip((*tests, setup), (*trees, of_setup), strict=True)
    naming = [tree for text, tree in both if any(module in text for module in modules)]  # few do
    imported = {name for tree in naming for name in _imported_from(tree, modules)}
    return ReadyTests(
        setup=_code(of_setup, "setup"),
        tests=tuple(_code(tree, "test") for tree in trees),
        runs=tuple(tuple(_runs(tree)) for tree in trees),
        wanted=tuple(sorted(wanted | imported)),
        library=tuple((name, *source) for name, source in sorted(library.items())),
        modules=modules,
        unittest=any("unittest" in text for text in (*tests, setup)),
    )


def _parsed(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(str(text), name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnjudgeableTestsError(f"the {name} doesn't compile: {error}") from error


def _code(tree: ast.Module, name: str) -> bytes:
    try:
        return marshal.dumps(compile(releasing(tree), name, "exec", dont_inherit=True))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnjudgeableTestsError(f"the {name} doesn't compile: {error}") from error


class _Names:
    """Which global names a text uses, and which it defines."""

    def __init__(self, text: str) -> None:
        table = symtable.symtable(str(text), "test", "exec")
        self.bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
        self.used = set(self._globals_of(table, top=True))

    def _globals_of(self, table: symtable.SymbolTable, top: bool) -> Iterator[str]:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (top or symbol.is_global()):
                yield symbol.get_name()
        for child in table.get_children():
            yield from self._globals_of(child, top=False)


def _subjects(entry_point: str, trees: list[ast.Module], free: set[str]) -> set[str]:
    """Return the names that come from the solution though a built-in or library function has them, too.

    That's the entry point. Without one, tests that use nothing but such names must be about one of them: the innermost
    that is called, `sum` in `assert set(sum(2)) == {1}`.
    """
    if entry_point:
        return {entry_point.partition(".")[0].partition("(")[0]}
    if any(not hasattr(builtins, name) and source_of(name) is None for name in free):
        return set()
    found, wrappers = set(), set(_WRAPPERS.split())
    for tree in trees:
        calls = sorted(_calls(tree, 0), key=lambda call: (call[0] not in wrappers, call[1]))
        if calls and calls[-1][0] in free:
            found.add(calls[-1][0])
    return found


def _calls(node: ast.AST, depth: int) -> Iterator[tuple[str, int]]:
    """Yield (name, depth) of what is called by its name, or handed on to be called."""
    if isinstance(node, ast.Call):
        handed = [part.id for part in node.args if isinstance(part, ast.Name)] if _is_map(node) else []
        for name in handed:
            yield name, depth + 1
        if isinstance(node.func, ast.Name):
            yield node.func.id, depth
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, depth + 1)


def _is_map(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in ("map", "filter")


def _imported_from(tree: ast.Module, modules: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            yield from (alias.name for alias in node.names if alias.name != "*")


def _runs(tree: ast.Module) -> Iterator[str]:
    """Yield what pytest would run of a module: functions and classes whose names begin so, unittest's classes."""
    cases = {"TestCase", "IsolatedAsyncioTestCase"}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
            if bases & cases:
                cases.add(node.name)
            if bases & cases or node.name.startswith("Test"):
                yield node.name
