"""The rows of cascade=smol_stages: of the form that each stage reads, right by their verifiers, none in two sets."""

import ast
import json

import pytest
import sympy

from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.nano.smol_stages import prepare_smol_stages
from nemo_cascade.rewards.code.verify import CodeVerifier
from nemo_cascade.rewards.math import MathVerifier
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.swe.repair import RepairVerifier

pytestmark = pytest.mark.long  # the data of a cascade that is trained in long tests


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "smol_stages"
    prepare_smol_stages(folder, seed=0)
    return {p.stem: [json.loads(line) for line in p.read_text().splitlines()] for p in folder.glob("*.jsonl")}


def question(row):
    return row["messages"][0]["content"]


def source(text):
    return text.split("```python\n")[1].rpartition("\n```")[0]


def test_rows_are_well_formed_and_no_prompt_is_in_two_sets(rows):
    template, asked = NAMED["cascade1"], {}
    for name, set_rows in rows.items():
        assert len(set_rows) >= 12, name
        for row in set_rows:
            problems = template.samples(row)[1] if name == "sft" else template.prompt(row, "no_think")[1]
            assert problems == []
            assert asked.setdefault(question(row), name) == name


def test_documented_answers_are_those_that_the_functions_give(rows):
    checked = 0
    for row in rows["math_train"] + rows["math_test"]:
        call = ast.parse(question(row).partition("What is ")[2].partition("? Put")[0], mode="eval").body
        function = getattr(sympy, call.func.id, None)
        # The few of other packages take keywords.
        if callable(function) and not call.keywords:
            assert int(function(*map(ast.literal_eval, call.args))) == int(row["answer"]), ast.unparse(call)
            checked += 1
    assert checked > 50


def test_defects_break_one_line_and_the_taught_repairs_are_golden(rows):
    for row in rows["swe_train"] + rows["swe_test"]:
        (path, broken), fixed = *row["files"].items(), row["fixed_files"]
        pairs = zip(broken.split("\n"), fixed[path].split("\n"), strict=True)
        assert sum(left != right for left, right in pairs) == 1
    taught = [row for row in rows["sft"] if "<issue>" in question(row)]
    for row in taught:
        path = question(row).partition("### ")[2].partition("\n")[0]
        broken = question(row).partition(f"### {path}\n```\n")[2].partition("\n```\n\nAnswer with")[0] + "\n"
        repair = row["messages"][1]["content"]
        wrong, right = (part.partition(end)[0] for part, end in zip(
            (repair.partition("SEARCH\n")[2], repair.partition("=======\n")[2]), ("\n=======", "\n>>>>>>>"), strict=True
        ))  # fmt: skip
        record = {"files": {path: broken}, "fixed_files": {path: broken.replace(wrong, right)}}
        assert RepairVerifier().verify(record, Response(repair)) == 1.0
    assert len(taught) >= 50


def test_taught_sums_are_right_and_taught_lines_finish_their_functions(rows):
    finished = 0
    for row in rows["sft"]:
        answer = row["messages"][1]["content"]
        if answer.startswith("\\boxed"):
            assert MathVerifier().verify({"answer": answer[7:-1]}, Response(answer)) == 1.0
        if answer.startswith("```python"):
            ast.parse(f"{source(question(row))}\n{source(answer)}")
            finished += 1
    assert finished >= 10


def test_the_withheld_line_of_a_humaneval_solution_solves_the_row_and_another_does_not(rows):
    for row in [*rows["code_train"][:2], *rows["code_test"][:2]]:
        last = row["canonical_solution"].rstrip().rpartition("\n")[2]
        assert source(question(row)) == row["prompt"]
        assert last not in row["prompt"]
        assert CodeVerifier().verify(row, Response(f"```python\n{last}\n```")) == 1.0
        assert CodeVerifier().verify(row, Response(f"```python\n{last.partition('return')[0]}return 0.5\n```")) == 0.0


def test_a_pair_prefers_the_own_summary(rows):
    own = {question(row): row["chosen"] for row in rows["pairs"]}
    assert len(own) == len(rows["pairs"])
    assert all(row["rejected"] in own.values() and row["rejected"] != row["chosen"] for row in rows["pairs"])
