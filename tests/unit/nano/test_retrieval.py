"""The nano documents: the answer stands in the right one, and no task is learned from that is asked for."""

from random import Random

from tokenizers import Tokenizer

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.data.chat.encode import encode_prompt, load_tokenizer
from nemo_cascade.nano.agent_repairs import draw_issue, repair_prompt
from nemo_cascade.nano.cascade_2.prepare import cascade_2_phrases
from nemo_cascade.nano.cascade_2.retrieval import draw_search, retrieval_prompt, retrieval_rows
from nemo_cascade.nano.tokenizer import train_nano_tokenizer


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
    train_nano_tokenizer((), tmp_path, cascade_2_phrases())
    tokenizer = load_tokenizer(tmp_path)
    vocabulary = compose(["cascade=nano_cascade_2"])[0].model.architecture["vocab_size"]
    assert vocabulary - 32 < Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() <= vocabulary
    rng = Random(0)
    for row, most in ((retrieval_prompt(draw_search(rng, "rl")), 110), (repair_prompt(draw_issue(rng, "rl")), 60)):
        assert len(encode_prompt(tokenizer, row["messages"], "no_think", row.get("tools"))) < most
