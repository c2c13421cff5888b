r"""Math problems out of installed packages: calls in docstrings whose printed result is a whole number.

"This returns 4: `divisor_count(6)`" is what the function's author wrote down for its readers, with the right answer.
"""

import ast
import doctest
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ANSWER = re.compile(r"-?\d{1,3}")
_PARSER = doctest.DocTestParser()

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sum:
    """A documented call of literals, and the whole number that it returns.

    Attributes:
        call: the call.
        answer: the number.
        summary: first paragraph of the function's docstring, on one line.
    """

    call: str
    answer: str
    summary: str

    @property
    def row(self) -> Row:
        """A row of the math verifier."""
        name = self.call.partition("(")[0]
        question = f"{name}: {self.summary}\nWhat is {self.call}? Put the final answer in \\boxed{{}}."
        return {"messages": [{"role": "user", "content": question}], "answer": self.answer}


def documented_sums(module: str) -> Iterator[Sum]:
    """Yield the problems of a module or of all modules of a package, in order of its files."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin)
    for source in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
        text = source.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if ">>>" in text else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield from _of(node.name, ast.get_docstring(node) or "")


def _of(name: str, docstring: str) -> Iterator[Sum]:
    summary = " ".join(docstring.split("\n\n")[0].split())
    try:
        examples = _PARSER.get_examples(docstring)
    except ValueError:
        return  # not a doctest after all
    for example in examples:
        call, answer = _literal_call(example.source, name), example.want.strip()
        if call and len(call) <= 60 and len(summary) <= 200 and ">>>" not in summary and _ANSWER.fullmatch(answer):
            yield Sum(call, answer, summary)


def _literal_call(source: str, name: str) -> str:
    """Return a source that is a call of this function with literals, which is all one needs to know; else nothing."""
    try:
        call = ast.parse(source.strip(), mode="eval").body
    except SyntaxError:
        return ""
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != name:
        return ""
    try:
        for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(value)
    except ValueError:
        return ""
    return ast.unparse(call)
