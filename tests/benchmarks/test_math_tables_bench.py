"""Agreement with the tables that peers test their math verifiers with; math_tables.md explains where we differ.

The tables come from the folder that MATH_TABLES names; fetch_math_tables.sh fills one. An answer without a box is put
into one: whole where it is only an answer, else its last formula or number. The tables' prose is about finding an
answer, which the box spares us: such rows are counted apart.
"""

import ast
import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_cascade.rewards.math import MathVerifier
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError

pytestmark = pytest.mark.bench

FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\\\[(.+?)\\\]|(?<!\\)\$(.+?)(?<!\\)\$|(?<!\\)\\\((.+?)\\\)", re.DOTALL)
NO_PROSE = {"and", "or", "percent", "pct", "percentage", "infty", "sqrt", "Answer"}
# table -> share of its rows without prose that we must agree with
LEAST = {"math-verify": 0.94, "lighteval": 0.94, "nemo-skills": 1.0, "inspect": 0.95}


class Names:
    def __getattr__(self, name):
        return name


def literal(node):
    names = {"math": math, "Language": Names(), "sympy": Names()}
    return eval(compile(ast.Expression(node), "table", "eval"), {"__builtins__": {}}, names)


def parametrized(path):
    """Yield (test, {argument: value}) of a test file's tables, without running it."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for decorator in getattr(function, "decorator_list", ()):
            if ast.unparse(decorator).startswith("pytest.mark.parametrize("):
                names = literal(decorator.args[0])
                names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
                for row in getattr(decorator.args[1], "elts", ()):
                    try:
                        values = literal(row)
                    except (NameError, TypeError):
                        continue  # a row that calls the peer's own code
                    yield function.name, dict(zip(names, [values] if len(names) == 1 else values, strict=True))


def rows(folder):
    """Yield (table, gold, answer, equal)."""
    for path in sorted(folder.rglob("*.py")):
        for test, row in parametrized(path):
            if "output_pair" in row:
                for gold, answer in (row["output_pair"], row["output_pair"][::-1]):
                    if gold is not None and answer is not None:
                        yield path.parent.name, gold, answer, not test.startswith("test_incorrect")
            elif {"gold", "pred"} <= row.keys():
                yield path.parent.name, row["gold"], row["pred"], bool(row.get("expected", row.get("result")))
    for path in sorted(folder.rglob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            yield path.parent.name, row["target"], row["output"], row["expected"] == "C"


def has_prose(text):
    outside = re.sub(r"\\[a-zA-Z]+|\{[a-z]*matrix\}|\{(?:array|cc)\}", " ", FORMULA.sub(" ", text))
    words = [word for word in re.findall(r"[^\W\d_]{2,}", outside) if word not in NO_PROSE]
    return len(words) > 1


def boxed(answer):
    """Return the answer in a box, and whether that took reading prose."""
    text = str(answer)
    if "\\boxed" in text or not has_prose(text):
        return text if "\\boxed" in text else f"\\boxed{{{text.replace('Answer', '')}}}", False
    formulas = [next(group for group in match.groups() if group) for match in FORMULA.finditer(text)]
    numbers = re.findall(r"-?\d[\d,.]*\d|\d", text)
    last = formulas[-1] if formulas else numbers[-1] if numbers else ""
    return f"\\boxed{{{last}}}", True


def verdict(verifier, gold, text):
    try:
        return verifier.verify({"answer": gold}, Response(text))
    except VerifierError as error:
        return error


def test_agreement_with_peers_tables(capsys):
    if "MATH_TABLES" not in os.environ:
        pytest.skip("MATH_TABLES names no folder; see fetch_math_tables.sh")
    verifier, tables = MathVerifier(), {}
    for table, gold, answer, equal in rows(Path(os.environ["MATH_TABLES"])):
        counts = tables.setdefault(table, SimpleNamespace(plain=[0, 0], prose=[0, 0], differ=[]))
        text, prose = boxed(answer)
        prose = prose or has_prose(str(gold))
        ours = verdict(verifier, gold, text)
        side = counts.prose if prose else counts.plain
        side[0] += ours == float(equal)
        side[1] += 1
        if ours != float(equal):
            counts.differ.append((prose, str(gold)[-70:], text[-70:], equal, ours))
    with capsys.disabled():
        for table, counts in tables.items():
            plain, prose_rows = (f"{side[0]} of {side[1]}" for side in (counts.plain, counts.prose))
            print(f"\n{table}: {plain} agree; of rows in prose {prose_rows}")
            for prose, gold, text, equal, ours in counts.differ:
                print(f"  {'prose ' if prose else ''}{gold!r} <- {text!r}: table {int(equal)}, ours {ours}")
    assert tables
    for table, counts in tables.items():
        assert counts.plain[0] >= LEAST.get(table, 0.95) * counts.plain[1], table
