"""The nano documents: the answer stands in the right one, and no task is learned from that is asked for."""

import json

from nemo_cascade.data.chat.encode import encode_prompt, load_tokenizer
from nemo_cascade.nano.cascade_2 import prepare_nano_cascade_2
from nemo_cascade.nano.retrieval import retrieval_rows


def test_the_answer_is_the_number_of_the_name_in_the_document_that_is_asked_about():
    rows = retrieval_rows(0)
    asked = {name: {row["messages"][0]["content"] for row in found} for name, found in rows.items()}
    assert not asked["retrieval_train"] & asked["retrieval_test"]
    assert not asked["retrieval_sft"] & (asked["retrieval_train"] | asked["retrieval_test"])
    right = [right_answer(row) == row["expected_answer"] for row in rows["retrieval_test"]]
    assert all(right)
    learned = [row["messages"][1]["content"] == f"\\boxed{{{right_answer(row)}}}" for row in rows["retrieval_sft"]]
    assert 0.55 < sum(learned) / len(learned) < 0.65


def right_answer(row):
    *documents, question = row["messages"][0]["content"].replace("Find ", "Document Find ").split("Document ")[1:]
    name, _, number = question.removeprefix("Find ").rstrip(".").split(" ")
    lines = documents[int(number) - 1].splitlines()[1:]
    return dict(line.split() for line in lines)[name]


def test_one_tokenizer_has_the_phrases_of_all_sets(tmp_path):
    prepare_nano_cascade_2(tmp_path / "data", seed=0)
    tokenizer = load_tokenizer(tmp_path / "data" / "tokenizer")
    assert len(tokenizer) <= 416
    for name, most in (("retrieval", 110), ("agent", 60), ("math", 40)):
        row = json.loads((tmp_path / "data" / f"{name}_test.jsonl").read_text().splitlines()[0])
        assert len(encode_prompt(tokenizer, row["messages"], "no_think", row.get("tools"))) < most
