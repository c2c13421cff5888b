"""Plain stdin problems out of problem packages (icpc.io/problem-package-format), and their solutions in Python 3.

Which problems are plain is settled by the package alone, before anything runs:
    - `problem.yaml` can be read, and its `validation` is `default` or missing: `custom` has a checker, or talks;
    - it has pairs of .in and .ans below data/; pairs with a longer input than asked for are left out.
Which solutions count:
    - files *.py in submissions/accepted that Python 3 parses, whose imports are all of the standard library, and that
      use no built-in of Python 2;
    - none that says of itself, by @EXPECTED_GRADES@, that it fails.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

PYTHON_2 = {"raw_input", "xrange", "unicode", "unichr"}


@dataclass(frozen=True)
class Problem:
    """A folder with a `problem.yaml`; most bytes of an input."""

    folder: Path
    most_bytes: int

    @cached_property
    def settings(self) -> dict:
        """What `problem.yaml` says; a file that can't be read says that the problem isn't plain."""
        try:
            return yaml.safe_load((self.folder / "problem.yaml").read_text(errors="replace")) or {}
        except yaml.YAMLError:
            return {"validation": "custom"}

    @property
    def plain(self) -> bool:
        """Whether the default validator judges it."""
        return not str(self.settings.get("validation") or "default").startswith("custom") and bool(self.cases())

    def cases(self) -> list[tuple[Path, Path]]:
        """Return the files of inputs and answers."""
        pairs = [(given, given.with_suffix(".ans")) for given in sorted((self.folder / "data").glob("**/*.in"))]
        there = [pair for pair in pairs if all(file.is_file() for file in pair)]
        return [pair for pair in there if pair[0].stat().st_size <= self.most_bytes]

    def row(self) -> dict:
        """Return the row for the verifier: the tests, and the problem's own rule of comparison."""
        texts = [[file.read_text(errors="replace") for file in case] for case in self.cases()]
        tests = [{"stdin": given, "expected": due} for given, due in texts]
        return {"tests": tests, "validator_flags": str(self.settings.get("validator_flags") or "")}

    def solutions(self) -> Iterator[tuple[str, str]]:
        """Yield name and text of the accepted solutions in Python 3."""
        for file in sorted((self.folder / "submissions" / "accepted").glob("*.py")):
            text = file.read_text(errors="replace")
            if counts(text):
                yield file.name, text


def counts(text: str) -> bool:
    """Whether a solution is one in Python 3 that needs nothing but the standard library."""
    if re.search(r"@EXPECTED_(GRADES|RESULTS)@.*(WRONG|WA|TIME|TLE)", text):
        return False
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    nodes = list(ast.walk(tree))
    roots = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    roots |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return roots <= sys.stdlib_module_names and not names & PYTHON_2


def problems(folder: Path, most_bytes: int) -> list[Problem]:
    """Return the plain problems below a folder, with inputs of at most so many bytes."""
    found = (Problem(path.parent, most_bytes) for path in sorted(folder.glob("**/problem.yaml")))
    return [problem for problem in found if problem.plain]
