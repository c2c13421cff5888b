import json

import pytest

from nemo_cascade.config.stages.tasks import TaskConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet, load_prompts
from nemo_cascade.errors import DataError


def prompt(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def load(path, tokenizer, limit=64, **rules):
    return PromptSet.load(path, "math", "math", "think", tokenizer, limit, **rules)


def test_prompt_carries_its_row_id_and_rendered_tokens(tokenizer, write_jsonl):
    prompts = load(
        write_jsonl([prompt("1+1", answer="2"), "\n", prompt("1+1"), prompt("2+2")], "sums.jsonl"), tokenizer
    )
    assert [p.task_id for p in prompts.first(3)] == ["sums/1", "sums/3", "sums/4"]
    assert prompts.first(1)[0].record["answer"] == "2"
    assert tokenizer.decode(prompts.first(1)[0].token_ids).endswith(
        "<|im_start|>user\n1+1 /think<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompts.duplicates == 1


def test_prompts_of_other_lengths_are_left_out_and_counted(tokenizer, write_jsonl):
    path = write_jsonl([prompt("1" * n) for n in (1, 3, 5, 30)])
    short, _, longer, _ = (len(p.token_ids) for p in load(path, tokenizer).prompts)
    kept = load(path, tokenizer, limit=longer, lengths=(short + 1, longer))
    assert [p.task_id for p in kept.prompts] == ["rows/2", "rows/3"]
    assert kept.left_out == 2
    assert [p.task_id for p in load(path, tokenizer, lengths=(longer, None)).prompts] == ["rows/3", "rows/4"]
    with pytest.raises(DataError, match=r"no prompts; got: .*4 left out for their length"):
        load(path, tokenizer, lengths=(0, 1))


def test_all_broken_rows_are_named(tokenizer, write_jsonl):
    answered = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    path = write_jsonl([prompt("1"), "{broken\n", {"question": "q"}, answered, prompt(" ")])
    with pytest.raises(DataError) as raised:
        load(path, tokenizer)
    for line, problem in (
        (2, "broken line"),
        (3, "no messages"),
        (4, "the last turn isn't the user's"),
        (5, "no content"),
    ):
        assert any(f"{path}:{line}:" in row and problem in row for row in str(raised.value).splitlines())
    assert "4 rows are no prompts" in str(raised.value)


def test_prompts_over_the_limit_are_listed(tokenizer, write_jsonl):
    path = write_jsonl([prompt("1"), prompt("2" * 100), prompt("3" * 200)])
    with pytest.raises(DataError, match="2 prompts are longer than 64 tokens") as raised:
        load(path, tokenizer)
    assert f"{path}:2: " in str(raised.value)
    assert f"{path}:3: " in str(raised.value)


def test_every_other_prompt_of_a_batch_is_asked_to_think(tokenizer, write_jsonl):
    mixed = PromptSet.load(write_jsonl([prompt(f"{i}+{i}") for i in range(12)]), "math", "math", "half", tokenizer, 64)
    batch = mixed.asked([4, 1, 7, 2])
    assert [p.task_id for p in batch] == ["rows/5", "rows/2", "rows/8", "rows/3"]
    assert [p.record["mode"] for p in batch] == ["think", "no_think"] * 2
    for p in batch:
        assert f" /{p.record['mode']}<|im_end|>" in tokenizer.decode(p.token_ids)


def test_more_prompts_than_there_are_aren_t_given(tokenizer, write_jsonl):
    with pytest.raises(DataError, match="more prompts are asked for than there are; got: 8; allowed: 7 in "):
        load(write_jsonl([prompt(str(i)) for i in range(7)]), tokenizer).first(8)


def test_rows_that_are_no_prompts_are_quarantined_within_the_share(tokenizer, write_jsonl, tmp_path):
    path = write_jsonl([*[prompt(f"{i}+1") for i in range(8)], {"text": "x"}, "{broken\n"])
    rules = {"path": path, "domain": "math", "reward": {"kind": "math"}}
    with pytest.raises(DataError, match="2 rows are no prompts") as raised:
        load_prompts({"sums": TaskConfig(**rules, max_bad_fraction=0.1)}, tokenizer, 64, tmp_path)
    assert f"{path}:9: no messages" in str(raised.value)
    prompts = load_prompts({"sums": TaskConfig(**rules, max_bad_fraction=0.2)}, tokenizer, 64, tmp_path)
    assert (len(prompts), len(prompts.bad)) == (8, 2)
    (file,) = (tmp_path / "quarantine").iterdir()
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(t["file"], t["line"], t["kind"]) for t in told] == [(path, 9, "broken"), (path, 10, "broken")]


def test_tasks_keep_their_own_verifier_and_domain_and_need_files_of_different_names(tokenizer, tmp_path):
    row = '{"messages": [{"role": "user", "content": "What is 1 + 1?"}], "answer": "2"}\n'
    for name, count in (("one", 3), ("two", 2)):
        (tmp_path / f"{name}.jsonl").write_text(row * count)
    tasks = {
        name: TaskConfig(path=str(tmp_path / f"{name}.jsonl"), domain=name, reward={"kind": kind})
        for name, kind in (("one", "math"), ("two", "code"))
    }
    mixed = load_prompts(tasks, tokenizer, 64, tmp_path)
    drawn = mixed.first(5)
    assert sorted((p.domain, p.verifier) for p in drawn) == [("one", "math")] * 3 + [("two", "code")] * 2
    with pytest.raises(DataError, match="files of the same name"):
        load_prompts({"a": tasks["one"], "b": tasks["one"]}, tokenizer, 64, tmp_path)
