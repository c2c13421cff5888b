import ast
import json

import pytest

from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.errors import RuntimeUnavailableError
from nemo_cascade.nano import real_text


def test_rows_are_what_the_packages_say_and_map_to_conversations(tmp_path, monkeypatch):
    monkeypatch.setattr(real_text, "PACKAGES", ("jinja2", "omegaconf"))
    real_text.prepare_real_text(tmp_path / "r")
    docs, code, humaneval = (
        [json.loads(line) for line in (tmp_path / "r" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("docs", "code", "humaneval")
    )
    assert min(len(docs), len(code)) > 100
    assert len(humaneval) == 164
    known, *_ = [row for row in docs if row["signature"].startswith("def load_bytecode(")]
    assert known["docstring"] == "Loads bytecode from a file or file like object."
    package, _, line = known["place"].partition("/bccache.py:")
    assert package == "jinja2"
    assert int(line) > 1
    for row in code:
        solution = row["solution"].removeprefix("```python\n").removesuffix("\n```")
        (function,) = ast.parse(solution).body
        assert len(function.body) > 1, "a docstring and statements"
        assert row["instruction"].endswith(f"{solution.splitlines()[0]}\n    {solution.splitlines()[1].strip()}\n```")
    for rows, columns in (
        (docs, {"user": "{signature}", "assistant": "docstring"}),
        (code, {"user": "instruction", "assistant": "solution"}),
    ):
        schema = schema_of("own", columns)
        assert all(NAMED["cascade1"].samples(schema.apply(row)[0])[1] == [] for row in rows)
    assert all(NAMED["cascade1"].prompt(row, "no_think")[1] == [] for row in humaneval)


def test_package_that_is_not_there_is_named():
    with pytest.raises(RuntimeUnavailableError, match="no_such_package"):
        real_text.require_packages(("jinja2", "no_such_package"))
