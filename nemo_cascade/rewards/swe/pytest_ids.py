"""Names of tests as the released sets write them, turned into pytest's ids."""

import ast
import re
from collections.abc import Collection, Iterator, Mapping

_DJANGO = re.compile(r"(\w+) \(([\w.]+)\)")


def pytest_id(test: str, test_files: Mapping[str, str]) -> str:
    """Return `path::Class::test` of a test.

    Known forms: pytest's own (SWE-bench, SWE-Gym); unittest's `test_m (package.module.Class)`, with the method's name
    behind the class from Python 3.11 on (Django's rows of SWE-bench); dotted names; and a test's bare name (sympy's
    rows). A module's path may lack the folder that its runner starts in. A name that leads nowhere is returned as it
    is: there is no such test.
    """
    path, colons, rest = test.partition("::")
    if colons or path.endswith(".py"):
        return f"{_file(path.removeprefix('./'), test_files) or path}{colons}{rest}"
    if match := _DJANGO.fullmatch(test.strip()):
        return _from_dotted(f"{match[2].removesuffix('.' + match[1])}.{match[1]}", test_files) or test
    if "." in test:
        return _from_dotted(test, test_files) or test
    name, bracket, values = test.partition("[")
    found = [
        f"{where}::{place}{bracket}{values}" for where, text in test_files.items() for place in _places(name, text)
    ]
    return found[0] if found else test


def _from_dotted(name: str, test_files: Mapping[str, str]) -> str | None:
    """Cut a dotted name where its first part is a test file, the longest such part first."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        if path := _file("/".join(parts[:count]) + ".py", test_files):
            return "::".join([path, *parts[count:]])
    return None


def _file(path: str, test_files: Collection[str]) -> str | None:
    if path in test_files:
        return path
    ending = [other for other in test_files if other.endswith(f"/{path}")]
    return ending[0] if len(ending) == 1 else None


def _places(name: str, text: str) -> Iterator[str]:
    """Yield where a test of that name stands in a file."""
    if name not in text:
        return
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield name
        elif isinstance(node, ast.ClassDef):
            yield from (
                f"{node.name}::{name}" for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name
            )
