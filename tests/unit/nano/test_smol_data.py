import json

from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.nano.smol import prepare_smol


def test_smol_rows_are_well_formed_real_and_in_one_file_only(tmp_path):
    prepare_smol(tmp_path / "smol", seed=0)
    rows = {
        p.stem: [json.loads(line) for line in p.read_text(encoding="utf-8").splitlines()]
        for p in (tmp_path / "smol").glob("*.jsonl")
    }
    assert {name: len(r) for name, r in rows.items()} == {
        "sft": 300,
        "math_train": 512,
        "math_test": 64,
        "instruction_test": 60,
    }
    asked = {}
    for name, file_rows in rows.items():
        template = NAMED["cascade1"]
        for row in file_rows:
            problems = template.samples(row)[1] if name == "sft" else template.prompt(row, "think")[1]
            assert problems == []
            question = row["messages"][0]["content"]
            assert asked.setdefault(question, name) == name, question
    docstrings = [r for r in rows["sft"] if "def " in r["messages"][0]["content"]]
    assert len({r["messages"][1]["content"] for r in docstrings}) > 150
    assert all(int(r["answer"]) >= 0 for r in rows["math_train"])
