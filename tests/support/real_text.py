"""Real text that the installed packages ship: their functions, with docstrings and sources."""

import ast
import importlib.util
import inspect
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Function:
    signature: str
    docstring: str
    source: str


def functions(*packages):
    """Yield the documented functions of packages, in a fixed order."""
    for package in packages:
        spec = importlib.util.find_spec(package)
        for file in sorted(Path(spec.origin).parent.rglob("*.py")):
            try:
                text = file.read_text(encoding="utf-8")
                tree = ast.parse(text)
            except (UnicodeDecodeError, SyntaxError):
                continue
            lines = text.splitlines(keepends=True)
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node)):
                    source = "".join(lines[node.lineno - 1 : node.end_lineno])
                    signature = f"def {node.name}({ast.unparse(node.args)}):"
                    yield Function(signature, inspect.cleandoc(docstring), source)


def sentences(*packages):
    """Return the different sentences of their docstrings, in a fixed order."""
    found = {}
    for function in functions(*packages):
        for sentence in re.split(r"(?<=[.!?])\s+|\n\n+", function.docstring):
            plain = " ".join(sentence.split())
            if 8 <= len(plain.split()) <= 40:
                found.setdefault(plain)
    return list(found)
