"""The tests of a coding problem, and what is made of them: the program to be run, the tests that the checker runs."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_cascade.rewards.code.output import CALL_HELPERS, OutputRule

if TYPE_CHECKING:
    from nemo_cascade.sandbox.judging import FunctionTests

_ROWS_REMEMBERED = 256  # a group of responses has the same row
_DEFINITION = re.compile(r"^(?:async\s+def|def|class)\s+(\w+)", re.MULTILINE)
_ASSERTING = re.compile(r"assert|fail$|raises$|exit$")
_WORD = re.compile(r"\w+")
_TEXTS_REMEMBERED = 8  # trees are large; one row asks for the same ones several times


@dataclass(frozen=True, slots=True)
class StdioTest:
    """A whole program's input and the output it must print."""

    stdin: str
    expected: str

    @property
    def shown(self) -> str:
        """The test as people read it."""
        return f"Input:\n{self.stdin.rstrip()}\nExpected output:\n{self.expected.rstrip()}"


@dataclass(frozen=True, slots=True)
class CallTest:
    """A call's arguments and the values of which it must return one (a set may not say whether it wraps them)."""

    arguments: tuple[Any, ...]
    expected: tuple[Any, ...]

    def shown(self, entry_point: str) -> str:
        """Return the test as people read it."""
        return f"{entry_point}({', '.join(map(repr, self.arguments))}) == {self.expected[-1]!r}"


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The tests of one problem; exactly one of the three kinds.

    Attributes:
        stdio: runs of the whole program.
        calls: calls of `entry_point` (a function, or a method of a class `Solution`).
        asserts: Python tests: asserts, pytest's functions or unittest's classes; one that defines `check(candidate)` is
            called with `entry_point`.
        entry_point: what is under test, as `f` or `Solution().f`; or empty.
        setup: code that runs before the asserts.
        preamble: the problem's own code, which the program may continue (HumanEval's prompt).
        modules: names under which the asserts import the program.
        rule: how the problem itself wants outputs compared; None: it says nothing of it.
    """

    stdio: tuple[StdioTest, ...] = ()
    calls: tuple[CallTest, ...] = ()
    asserts: tuple[str, ...] = ()
    entry_point: str = ""
    setup: str = ""
    preamble: str = ""
    modules: tuple[str, ...] = ("solution",)
    rule: OutputRule | None = None

    @property
    def subject(self) -> str:
        """Name of the function or class that the program must define; or empty."""
        return re.split(r"\W", self.entry_point, maxsplit=1)[0]


def function_tests(tests: CodeTests, calls: list[CallTest]) -> FunctionTests:
    """Return what the checker runs.

    Args:
        tests: calls or asserts.
        calls: those of the calls that are wanted.
    """
    from nemo_cascade.sandbox.judging import FunctionTests

    if tests.calls:
        lines = [
            f"assert _any_same(_function()(*{list(call.arguments)!r}), {call.expected!r}), "
            f"'call {number} of {len(calls)}'"
            for number, call in enumerate(calls, 1)
        ]
        setup = CALL_HELPERS + _FUNCTION.format(name=tests.entry_point)
        return FunctionTests(("\n".join(lines),), tests.entry_point, setup)
    setup = f"{_helpers(tests.preamble, tests.subject, tests.asserts)}\n{tests.setup}"
    return FunctionTests(tests.asserts, tests.entry_point, setup, tests.modules)


# A fresh `Solution` for each call, as LeetCode has it.
_FUNCTION = """
def _function():
    if "Solution" in _builtins.globals() and _builtins.hasattr(Solution, "{name}"):
        return Solution().{name}
    return {name}
"""


def wanted_names(tests: CodeTests) -> tuple[str, ...]:
    """Return the names that tests use of the program, none for tests of its output.

    Raises:
        UnjudgeableTestsError: the tests can't be run, whatever the program.
    """
    from nemo_cascade.sandbox.ready_tests import ready_tests

    if tests.calls:
        return (tests.entry_point, "Solution")
    if not tests.asserts:
        return ()
    suite = function_tests(tests, [])
    return ready_tests(suite.tests, suite.entry_point, suite.setup, suite.modules).wanted


def with_preamble(program: str, tests: CodeTests) -> str:
    """Complete a program with the problem's own code.

    A program that defines the entry point itself gets what stands before it there (imports, helper functions); one
    that doesn't is taken as the continuation of the problem's code.
    """
    if not tests.preamble:
        return program
    if _definition(tests.subject, program) is None:
        return tests.preamble.rstrip("\n") + "\n" + program
    own = _definition(tests.subject, tests.preamble)
    return (tests.preamble[: own.start()] if own else tests.preamble.rstrip("\n") + "\n") + program


def _definition(name: str, text: str) -> re.Match[str] | None:
    """Return the first definition of a name, of any if it is empty."""
    return next((found for found in _DEFINITION.finditer(text) if name in ("", found[1])), None)


@functools.lru_cache(_ROWS_REMEMBERED)
def _helpers(preamble: str, subject: str, asserts: tuple[str, ...]) -> str:
    """Return the problem's own code without the entry point, if the tests use any of it: no program may redefine it."""
    tree = parsed_code(preamble)
    if tree is None:
        return ""
    kept = [node for node in tree.body if getattr(node, "name", None) != subject]
    defined = bound_names(kept)
    mentioning = [text for text in asserts if not defined.isdisjoint(_WORD.findall(text))]  # few do
    used = {node.id for text in mentioning for node in ast.walk(_tree(text)) if isinstance(node, ast.Name)}
    return ast.unparse(ast.Module(kept, [])) if defined & used else ""


@functools.lru_cache(_ROWS_REMEMBERED)
def is_code(text: str) -> bool:
    """Whether a problem's own text is code, not prose; see `parsed_code`."""
    return parsed_code(text) is not None


@functools.lru_cache(_TEXTS_REMEMBERED)
def parsed_code(text: str) -> ast.Module | None:
    """Return the tree of a problem's own code, which may end with the head of a function; None for prose."""
    for completed in (text, text.rstrip() + "\n    pass\n"):
        try:
            return ast.parse(completed)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


@functools.lru_cache(_TEXTS_REMEMBERED)
def _tree(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # refused by whoever makes the tests ready
        return ast.Module([], [])


def bound_names(body: Sequence[ast.AST]) -> set[str]:
    """Return the names that a module's own statements bind, in branches too, but not within functions and classes."""
    names: set[str] = set()
    nodes = list(body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names} - {"*"}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        nodes.extend(ast.iter_child_nodes(node))
    return names


def assert_something(tests: CodeTests) -> bool:
    """Whether any of the tests can fail a program that neither raises nor ends: else all programs pass."""
    return _assert_something((*tests.asserts, tests.setup), bool(tests.entry_point))


@functools.lru_cache(_ROWS_REMEMBERED)
def _assert_something(texts: tuple[str, ...], has_entry_point: bool) -> bool:
    trees = [_tree(text) for text in texts]

    @functools.cache
    def named() -> set[str]:  # most texts don't ask for it
        parts = [part for tree in trees for part in ast.walk(tree)]
        names = {part.id for part in parts if isinstance(part, ast.Name)}
        return names | {part.attr for part in parts if isinstance(part, ast.Attribute)}

    def runs(name: str) -> bool:
        begins = name.startswith(("test", "_", "setUp", "setup", "runTest"))
        return begins or (name == "check" and has_entry_point) or name in named()

    return any(_asserts(node, runs) for tree in trees for node in tree.body)


def _asserts(node: ast.AST, runs: Callable[[str], bool]) -> bool:
    if isinstance(node, ast.Assert | ast.Raise):
        return True
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not runs(node.name):
        return False
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if _ASSERTING.match(name):
            return True
    return any(_asserts(child, runs) for child in ast.iter_child_nodes(node))
