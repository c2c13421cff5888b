import json
import re

import pytest

from nemo_cascade.data.chat import encode_conversation, load_tokenizer, split_reasoning
from nemo_cascade.data.nano_instruction import WORDS
from nemo_cascade.data.nano_tasks import prepare_nano
from nemo_cascade.data.prepared import write_once
from nemo_cascade.data.prompts import PromptSet
from nemo_cascade.rewards.instruction import InstructionVerifier
from nemo_cascade.rewards.response import Response
from nemo_cascade.types import FinishReason


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "nano"
    prepare_nano(folder, seed=0)
    return folder


def read(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def questions(folder, name):
    asked = {row["messages"][-2 if name.startswith("sft") else -1]["content"] for row in read(folder, name)}
    # a+b and b+a are the same problem
    return {re.sub(r"(\d+)\+(\d+)", lambda m: "+".join(sorted(m.groups())), q) for q in asked}


def test_sft_rl_and_hold_out_share_no_problem(nano):
    sft = questions(nano, "sft1") | questions(nano, "sft2")
    for domain in ("math", "instruction"):
        train, test = questions(nano, f"{domain}_train"), questions(nano, f"{domain}_test")
        assert len(test) == len(read(nano, f"{domain}_test"))
        assert not sft & train
        assert not sft & test
        assert not train & test


def test_data_is_the_same_when_written_again_and_left_alone_when_there(nano, tmp_path):
    prepare_nano(tmp_path / "again", seed=0)
    contents = [
        {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        for root in (nano, tmp_path / "again")
    ]
    assert contents[0] == contents[1]
    written = (nano / "sft1.jsonl").stat().st_mtime_ns
    prepare_nano(nano, seed=0)
    assert (nano / "sft1.jsonl").stat().st_mtime_ns == written


def test_folder_of_another_recipe_is_replaced_and_a_failed_one_leaves_nothing(tmp_path):
    def write(text):
        return lambda folder: (folder / "rows.jsonl").write_text(text)

    def fail(folder):
        (folder / "rows.jsonl").write_text("half")
        raise OSError("disk full")

    write_once(tmp_path / "data", {"seed": 0}, write("old"))
    write_once(tmp_path / "data", {"seed": 0}, write("ignored"))
    assert (tmp_path / "data" / "rows.jsonl").read_text() == "old"
    with pytest.raises(OSError, match="disk full"):
        write_once(tmp_path / "data", {"seed": 1}, fail)
    assert (tmp_path / "data" / "rows.jsonl").read_text() == "old"
    write_once(tmp_path / "data", {"seed": 1}, write("new"))
    assert (tmp_path / "data" / "rows.jsonl").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_every_worked_answer_is_right(nano):
    for row in [*read(nano, "sft1"), *read(nano, "sft2")]:
        question, reply = (m["content"] for m in row["messages"])
        if question.startswith("Compute"):
            thought, answer = split_reasoning(reply)
            assert answer == f"\\boxed{{{eval(question[8:-1])}}}"
            for line in thought.splitlines():
                claim, result = line.split("=")
                assert eval(claim) == int(result), line


def test_expected_instruction_answers_satisfy_their_verifier(nano):
    verifier = InstructionVerifier()
    for row in read(nano, "instruction_test"):
        response = Response(row["instruction"]["expected"], (1,), FinishReason.STOP)
        assert verifier.verify(row, response) == 1.0


def test_words_and_digits_are_single_tokens_and_samples_are_short(nano):
    tokenizer = load_tokenizer(nano / "tokenizer")
    assert tokenizer.vocab_size <= 512
    assert len(tokenizer.encode("0123456789")) == 10
    for word in WORDS:
        for form in (word, f" {word}", word.upper(), f" {word.upper()}"):
            assert len(tokenizer.encode(form)) == 1, form
    for domain, mode in (("math", "think"), ("instruction", "no_think")):
        PromptSet.load(nano / f"{domain}_test.jsonl", domain, domain, mode, tokenizer, max_prompt_tokens=48)
    lengths = [int(encode_conversation(tokenizer, r["messages"])[1].sum()) for r in read(nano, "sft2")]
    assert max(lengths) < 96
