import json
from random import Random

import pytest

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.data.chat.encode import encode_conversation, load_tokenizer, split_reasoning
from nemo_cascade.data.prepared import write_once
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.nano.instruction import WORDS
from nemo_cascade.nano.tasks import DOMAINS, prepare_nano
from nemo_cascade.rewards.instruction import InstructionVerifier
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.response import Response

VERIFIER = {"math": "math", "instruction": "instruction", "code": "code", "swe": "swe_repair"}
FIRST_WORD = {"Compute": "math", "List": "instruction", "Write": "code", "Repair:": "swe"}


def read(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def asked(row):
    return next(m["content"] for m in row["messages"] if m["role"] == "user")


def domain_of(question):
    return FIRST_WORD[question.split()[0]]


def same_task(question):
    """Questions that mean the same task have the same text here, written apart from the tasks' own `canonical`."""
    domain = domain_of(question)
    if domain == "math":
        problem = question.split()[1].rstrip(".")
        return "+".join(sorted(problem.split("+"))) if "+" in problem else problem
    if domain == "instruction":
        return tuple(sorted(question.removeprefix("List words. ").rstrip(".").split(". ")))
    if domain == "code":
        return tuple(sorted(question.partition(": ")[2].rstrip(".").split(", ")))
    issue, _, files = question.partition("\n")
    name = issue.split()[1]
    line = files.partition(f"def {name}(x):\n")[2].partition("\n")[0]
    return issue, line


def drawn(domain, share, count):
    """Return prompt rows with SFT replies to them."""
    rng, tasks = Random(f"test/{domain}"), DOMAINS[domain]
    chosen = [tasks.draw(rng, "sft") for _ in range(count)]
    return [(tasks.prompt(task), tasks.sample(task, rng, share)["messages"][-1]["content"]) for task in chosen]


def test_sft_rl_and_hold_out_share_no_task(nano):
    sft = {same_task(asked(row)) for name in ("sft1", "sft2") for row in read(nano, name)}
    for domain in DOMAINS:
        train, test = ({same_task(asked(row)) for row in read(nano, f"{domain}_{kind}")} for kind in ("train", "test"))
        assert (len(train), len(test)) == (2000, 600)
        assert not sft & train
        assert not sft & test
        assert not train & test


@pytest.mark.long  # all data once more
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


def test_every_worked_sum_is_right(nano):
    for row in [*read(nano, "sft1"), *read(nano, "sft2")]:
        question, reply = (m["content"] for m in row["messages"])
        if domain_of(question) == "math":
            thought, answer = split_reasoning(reply)
            assert answer == f"\\boxed{{{eval(question[8:-1])}}}"
            for line in thought.splitlines():
                claim, result = line.split("=")
                assert eval(claim) == int(result), line


def test_replies_are_as_good_as_meant_by_the_very_verifier_that_rewards_rollouts():
    right = dict.fromkeys(DOMAINS, 0)
    with VerifierPool(RewardConfig(workers=2)) as pool:
        for domain, tasks in DOMAINS.items():
            for number, (row, reply) in enumerate(drawn(domain, tasks.sft2[1], 200)):
                pool.submit((domain, number), VERIFIER[domain], row, Response(reply))
        for (domain, _), verdict in pool.drain():
            assert verdict.error is None, verdict
            right[domain] += verdict.score == 1.0
    assert right["math"] == right["code"] == 200
    assert 55 < right["instruction"] < 110  # two in five careful
    assert 125 < right["swe"] < 175  # half careful, and every other careless one edits the right file


def test_a_careless_list_breaks_one_rule_and_a_careful_one_none():
    verifier = InstructionVerifier(partial=True)
    for row, reply in drawn("instruction", 1.0, 300):
        rules = len(row["kwargs"])
        assert round(verifier.verify(row, Response(reply)) * rules) in (rules - 1, rules)
    for row, reply in drawn("instruction", 0.0, 300):
        assert verifier.verify(row, Response(reply)) == 1.0, (row, reply)


def test_words_digits_and_phrases_are_single_tokens_and_samples_are_short(nano):
    tokenizer = load_tokenizer(nano / "tokenizer")
    assert tokenizer.vocab_size <= 384
    assert len(tokenizer.encode("0123456789")) == 10
    for phrase in (*(f" {word}" for word in WORDS), "List words.", " /no_think", "\n=======\n    return x"):
        assert len(tokenizer.encode(phrase)) == 1, phrase
    assert tokenizer.decode(tokenizer.encode("Repair: left must be x-12.\n### é\tup.py")) == (
        "Repair: left must be x-12.\n### é\tup.py"
    )
    for domain in DOMAINS:
        mode = "think" if domain == "math" else "no_think"
        PromptSet.load(nano / f"{domain}_test.jsonl", domain, VERIFIER[domain], mode, tokenizer, max_prompt_tokens=80)
    lengths = [int(encode_conversation(tokenizer, r["messages"])[1].sum()) for r in read(nano, "sft2")]
    assert max(lengths) < 48
