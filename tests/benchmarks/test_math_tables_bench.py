"""Agreement with the tables that peers test their math verifiers with; math_tables.md explains where we differ.

The tables come from the folder that MATH_TABLES names; fetch_math_tables.sh fills one. An answer without a box is put
into one: whole where it is only an answer, else its last formula or number, of its final answer where it has one. The
tables' prose is about finding an answer, which the box spares us: such rows are counted apart. Of Math-Verify and
lighteval another count is printed, too: all rows but those of the tests of finding answers (`FINDING`).
"""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_cascade.rewards.math import MathVerifier
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError
from tests.support.peer_tables import Row, rows_of

pytestmark = pytest.mark.bench

FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\\\[(.+?)\\\]|(?<!\\)\$(.+?)(?<!\\)\$|(?<!\\)\\\((.+?)\\\)", re.DOTALL)
NUMBER = r"(-?\d[\d,.]*\d(?:/\d+)?%?|\d(?:/\d+)?%?)"
FOUND = re.compile(f"{FORMULA.pattern}|{NUMBER}", re.DOTALL)
FINAL = re.compile(r".*[Ff]inal [Aa]nswer:?(.*?)(?:I hope it is correct|$)", re.DOTALL)
FINDING = re.compile(r"numina|multilingual|extraction_abc|string_extraction")
NO_PROSE = {"and", "or", "percent", "pct", "percentage", "infty", "sqrt", "Answer"}
# table -> share of its rows without prose that we must agree with
LEAST = {"math-verify": 0.94, "lighteval": 0.94, "nemo-skills": 1.0, "latex2sympy2": 0.8}
LEAST |= {"hendrycks": 0.87, "mario": 0.89, "slime": 0.92, "tinker": 0.9, "torchtitan": 0.66}


def rows(folder):
    """Yield (table, row)."""
    for path in sorted(folder.rglob("*.py")):
        for row in rows_of(path):
            yield path.parent.name, row
    for path in sorted(folder.rglob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            yield path.parent.name, Row(row["target"], row["output"], row["expected"] == "C")


def has_prose(text):
    outside = re.sub(r"\\[a-zA-Z]+|\{[a-z]*matrix\}|\{(?:array|cc)\}", " ", FORMULA.sub(" ", text))
    words = [word for word in re.findall(r"[^\W\d_]{2,}", outside) if word not in NO_PROSE]
    return len(words) > 1


def boxed(answer):
    """Return the answer in a box, and whether that took reading prose."""
    text = str(answer)
    if "\\boxed" in text or not has_prose(text):
        return text if "\\boxed" in text else f"\\boxed{{{text.replace('Answer', '')}}}", False
    final = FINAL.match(text)
    found = [next(filter(None, match.groups())) for match in FOUND.finditer(final[1] if final else text)]
    return f"\\boxed{{{found[-1] if found else ''}}}", True


def verdict(verifier, gold, text):
    try:
        return verifier.verify({"answer": gold}, Response(text))
    except VerifierError as error:
        return error


def test_agreement_with_peers_tables(capsys):
    if "MATH_TABLES" not in os.environ:
        pytest.skip("MATH_TABLES names no folder; see fetch_math_tables.sh")
    verifier, tables = MathVerifier(), {}
    for table, row in rows(Path(os.environ["MATH_TABLES"])):
        gold, equal = row.gold, row.equal
        counts = tables.setdefault(table, SimpleNamespace(plain=[0, 0], prose=[0, 0], judging=[0, 0], differ=[]))
        text, prose = (row.answer, False) if row.whole else boxed(row.answer)
        prose = prose or has_prose(str(gold))
        found = boxed(gold)[0] if has_prose(str(gold)) else ""
        ours = verdict(verifier, gold if found in ("", "\\boxed{}") else found, text)
        for side in (counts.prose if prose else counts.plain, *([] if FINDING.search(row.test) else [counts.judging])):
            side[0] += ours == float(equal)
            side[1] += 1
        if ours != float(equal):
            counts.differ.append((prose, str(gold)[-70:], text[-70:], equal, ours))
    with capsys.disabled():
        for table, counts in tables.items():
            sides = (counts.plain, counts.prose, counts.judging)
            plain, prose_rows, judging = (f"{side[0]} of {side[1]}" for side in sides)
            print(f"\n{table}: {plain} agree; of rows in prose {prose_rows}; without tests of finding {judging}")
            for prose, gold, text, equal, ours in counts.differ:
                print(f"  {'prose ' if prose else ''}{gold!r} <- {text!r}: table {int(equal)}, ours {ours}")
    assert tables
    for table, counts in tables.items():
        assert counts.plain[0] >= LEAST.get(table, 0.95) * counts.plain[1], table
