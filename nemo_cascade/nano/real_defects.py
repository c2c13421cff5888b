"""Repair tasks out of installed packages: a small source file as it is, and the same with one operator turned round."""

import ast
import importlib.util
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from nemo_cascade.data.prompts.swe_rows import repair_messages

_TURNED = {"==": "!=", "!=": "==", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "+": "-", "-": "+", "and": "or"}
_TURNED |= {"or": "and", "True": "False", "False": "True", "*": "/", "/": "*"}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Defect:
    """A source file with one wrong line.

    Attributes:
        path: the file's, from its package on.
        function: whose line it is.
        text: the file with the defect.
        fixed: the file as it is installed.
        wrong: the line with the defect, which the file has once.
        right: the line as it should be.
    """

    path: str
    function: str
    text: str
    fixed: str
    wrong: str
    right: str

    @property
    def row(self) -> Row:
        """A row of the repair verifier: issue, files, golden patch, and the prompt that asks for it."""
        problem = f"`{self.function}` in {self.path} is wrong since the last change, in this line:\n\n{self.wrong}"
        row: Row = {"problem": problem, "files": {self.path: self.text}, "fixed_files": {self.path: self.fixed}}
        return {"messages": repair_messages(problem, row["files"]), **row}

    @property
    def repair(self) -> str:
        """The golden patch as the policy is asked to write it."""
        edit = f"<<<<<<< SEARCH\n{self.wrong}\n=======\n{self.right}\n>>>>>>> REPLACE"
        return f"<solution>\n### {self.path}\n{edit}\n</solution>"


def draw_defects(package: str, sizes: tuple[int, int], rng: Random) -> Iterator[Defect]:
    """Yield a defect for each source file of a package whose size in bytes lies in a range, where one can be made."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for file in sorted(root.rglob("*.py")):
        if sizes[0] <= file.stat().st_size <= sizes[1] and "test" not in str(file.relative_to(root)):
            text = file.read_text(encoding="utf-8")
            defects = list(_defects(f"{package}/{file.relative_to(root)}", text)) if text.isascii() else []
            if defects:
                yield rng.choice(defects)


def _defects(path: str, text: str) -> Iterator[Defect]:
    lines = text.split("\n")
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        number, column = token.start
        line = lines[number - 1]
        around = [f.name for f in functions if f.body[0].lineno <= number <= (f.end_lineno or 0)]
        if not around or token.string not in _TURNED or token.type not in (tokenize.OP, tokenize.NAME):
            continue
        wrong = line[:column] + _TURNED[token.string] + line[column + len(token.string) :]
        broken = "\n".join([*lines[: number - 1], wrong, *lines[number:]])
        if len(line) <= 90 and broken.count(wrong) == 1 and _compiles(broken):
            yield Defect(path, around[-1], broken, text, wrong, line)


def _compiles(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
