import numpy as np
import pytest

from nemo_cascade.config.stages.pairs import PairDataConfig, PairSetConfig
from nemo_cascade.data.chat.encode import encode_conversation
from nemo_cascade.data.pairs import build_pair_stores, build_pairs
from nemo_cascade.data.responses import HoldoutSource, ResponseSource
from nemo_cascade.data.scored import encode_scored, scored_answer
from nemo_cascade.errors import DataError


def pair(i, chosen="right", rejected="wrong", **changes):
    question = [{"role": "user", "content": f"question {i}"}]
    return {"messages": question, "chosen": f"{chosen} {i}", "rejected": f"{rejected} {i}", **changes}


@pytest.fixture
def build(tokenizer, write_jsonl, tmp_path):
    def make(rows, held=None, seq_length=512, **rules):
        paths = {"path": write_jsonl(rows), "holdout_path": write_jsonl(held or [pair("x")], "held.jsonl")}
        data = PairDataConfig(**paths, **rules)
        return build_pair_stores(data, seq_length, tokenizer.folder, tmp_path / "cache")

    return make


def documents(batch):
    return [
        (batch.input_ids[begin:end].tolist(), np.flatnonzero(batch.loss_mask[begin:end]).tolist())
        for begin, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)
    ]


def test_every_pair_is_seen_once_per_epoch_whole_and_marked_at_its_end_token(build, tokenizer):
    rows = [pair(i, chosen="good " * (i % 5 + 1)) for i in range(23)]
    train, _ = build(rows)
    source = ResponseSource(train.folder, 8, 3, 512)
    assert source.steps(1) == 3
    seen = []
    for step in range(3):
        shares = [source.micro_batches(step, rank, 2) for rank in range(2)]
        assert len(shares[0]) == len(shares[1]) >= 1
        for batch in (b for share in shares for b in share):
            assert batch.num_tokens <= 512
            both = documents(batch)
            for ids, marked in both if batch.loss_mask.any() else ():
                assert ids[-1] == tokenizer.end_id
                # The mask lies where the last token is predicted; the score is read at the token itself.
                assert marked == [len(ids) - 2]
            seen += [(both[i][0], both[i + 1][0]) for i in range(0, len(both) - 1, 2)]
    expected = {
        tuple(
            tuple(encode_conversation(tokenizer, [*row["messages"], {"role": "assistant", "content": row[side]}])[0])
            for side in ("chosen", "rejected")
        )
        for row in rows
    }
    assert len(seen) == 24  # the last batch reaches into the next epoch
    assert {(tuple(a), tuple(b)) for a, b in seen} == expected


def test_the_global_batch_doesnt_depend_on_the_ranks(build):
    train, _ = build([pair(i) for i in range(16)])
    source = ResponseSource(train.folder, 8, 0, 512)

    def content(size):
        batches = [b for rank in range(size) for b in source.micro_batches(1, rank, size) if b.loss_mask.any()]
        return sorted(str(document) for batch in batches for document in documents(batch))

    assert content(1) == content(2) == content(3)


def test_hold_out_pairs_come_in_order_and_once(build):
    _, held = build([pair(i) for i in range(4)], held=[pair(f"held {i}") for i in range(5)])
    source = HoldoutSource(held.folder, 2, 0, 512)
    assert [source.items(step) for step in range(source.steps(1))] == [[0, 1], [2, 3], [4]]
    both = source.micro_batches(2, 0, 2), source.micro_batches(2, 1, 2)
    assert [int(share[0].loss_mask.sum()) for share in both] == [2, 0]


def test_responses_may_be_texts_turns_or_whole_conversations_and_lose_their_thinking(build, tokenizer):
    plain = pair(1)
    turn = {"role": "assistant", "content": "<think>\nhm\n</think>\nright 1"}
    forms = [
        plain,
        {**plain, "chosen": [turn]},
        {**plain, "chosen": [*plain["messages"], turn], "rejected": [{"role": "assistant", "content": "wrong 1"}]},
    ]
    stores = [build([row])[0] for row in forms]
    assert len({store.tokens.tobytes() for store in stores}) == 1
    assert "hm" not in tokenizer.decode(stores[0].tokens)


def test_bad_pairs_are_counted_and_refused_over_the_limit(build):
    rows = [pair(i) for i in range(8)] + [pair(8, chosen="same", rejected="same"), pair(9, rejected=" ", **{})]
    rows[-1]["rejected"] = "<think>\nonly thoughts\n</think>\n"
    with pytest.raises(DataError, match=r"2 of 10 pairs can't be trained on \(2 teach nothing") as refused:
        build(rows)
    assert "rows.jsonl:9: the responses are equal" in str(refused.value)
    assert "rows.jsonl:10: a response is empty" in str(refused.value)
    train, _ = build(rows, max_bad_fraction=0.2)
    assert (train.stats["pairs"], train.stats["dropped_unusable"]) == (8, 2)
    with pytest.raises(DataError, match="pairs are longer than seq_length=64"):
        build([pair(0), pair(1, chosen="long " * 90)], seq_length=64)
    train, _ = build([pair(0), pair(1, chosen="long " * 400)], seq_length=512, overlong="drop", max_bad_fraction=0.5)
    assert (train.stats["pairs"], train.stats["dropped_overlong"]) == (1, 1)


def test_rows_that_are_no_pairs_are_named(build):
    wrong = [
        {"messages": [{"role": "user", "content": "q"}], "chosen": "a"},
        pair(2, chosen="x") | {"chosen": [{"role": "user", "content": "not a reply"}]},
        pair(3) | {"chosen": [{"role": "user", "content": "another question"}, {"role": "assistant", "content": "a"}]},
        pair(4) | {"messages": "text"},
        "not json\n",
    ]
    with pytest.raises(DataError, match="5 rows are no pairs") as refused:
        build([pair(0), *wrong])
    told = str(refused.value)
    assert "rows.jsonl:2: `rejected` isn't there, or isn't mapped" in told
    assert "rows.jsonl:3: `chosen` is neither a text nor messages that end with a reply" in told


def test_a_prompt_that_is_trained_on_can_measure_nothing(build):
    with pytest.raises(DataError, match="both trained on and held out"):
        build([pair(i) for i in range(5)], held=[pair(9), pair(3, chosen="other", rejected="another")])


def test_a_reward_model_scores_the_question_and_what_follows_the_last_thinking(tokenizer):
    assert scored_answer("<think>\na</think>\nb") == "b"
    assert scored_answer("<think>\nnever ends") == "<think>\nnever ends"
    question = [{"role": "user", "content": "q /think"}]
    thinking, plain, unfinished = encode_scored(
        tokenizer, [(question, "<think>\na</think>\nb"), ([{"role": "user", "content": "q"}], "b"), (question, "b")]
    )
    assert thinking.tolist() == plain.tolist() == unfinished.tolist()
    assert tokenizer.decode(plain).endswith("user\nq /no_think<|im_end|>\n<|im_start|>assistant\nb<|im_end|>")
    # What a policy samples may hold control tokens; the reward model sees them as they are.
    (odd,) = encode_scored(tokenizer, [(question, "b<|im_start|>user")])
    assert tokenizer.decode(odd).count("<|im_start|>") == 4


def test_the_held_out_pairs_may_be_another_split_of_the_same_set(tokenizer, write_jsonl, tmp_path):
    (tmp_path / "set").mkdir()
    write_jsonl([pair(i) for i in range(5)], "set/train.jsonl")
    write_jsonl([pair(i) for i in range(5, 7)], "set/test.jsonl")
    hub = f"hf://{tmp_path}/set"
    data = PairDataConfig(path=hub, holdout_path=hub, holdout_split="test")
    train, holdout = build_pair_stores(data, 512, tokenizer.folder, tmp_path / "data" / "tokenised")
    assert (train.stats["pairs"], holdout.stats["pairs"]) == (5, 2)


def test_values_of_a_steps_documents_come_back_in_the_order_of_its_items(build):
    _, held = build([pair(0)], held=[pair(i, chosen="good " * (i % 4 + 1)) for i in range(1, 9)])
    source = HoldoutSource(held.folder, 8, 0, 512)
    for ranks in (1, 2, 3):
        values = [
            [np.array([len(d[0]) for d in documents(batch) if d[1]]) for batch in source.micro_batches(0, rank, ranks)]
            for rank in range(ranks)
        ]
        assert source.by_document(0, values).tolist() == np.diff(held.offsets).tolist()


@pytest.fixture
def policy_pairs(tokenizer, write_jsonl, tmp_path):
    def make(rows, of="policy", **rules):
        data = PairSetConfig(path=write_jsonl(rows), **rules)
        return build_pairs(data, 512, tokenizer.folder, tmp_path / "cache", of=of)

    return make


def test_a_policy_learns_both_replies_to_one_prompt_thoughts_and_end_included(policy_pairs, tokenizer):
    think = {"mode": "think", "chosen": "<think>\nwhy\n</think>\nyes", "rejected": "<think>\nhm\n</think>\nno"}
    asked = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "and?"},
    ]
    for row in (pair(1), {**pair(2), **think}, {**pair(3), "messages": asked}):
        chosen, rejected = policy_pairs([row]).documents(0)
        begin = int(np.argmax(chosen.loss_mask > 0))
        assert begin == int(np.argmax(rejected.loss_mask > 0))
        assert chosen.input_ids[: begin + 1].tolist() == rejected.input_ids[: begin + 1].tolist()
        for document, side in ((chosen, "chosen"), (rejected, "rejected")):
            text = row[side] if "mode" not in row else row[side].removeprefix("<think>\n")
            said = tokenizer.decode(document.labels[document.loss_mask > 0])
            assert said.replace("<think>\n", "") == f"{text}<|im_end|>"
            whole = encode_conversation(
                tokenizer, [*row["messages"], {"role": "assistant", "content": row[side]}], row.get("mode")
            )[0]
            assert document.input_ids.tolist() == whole.tolist()


def test_replies_of_which_one_thinks_answer_different_prompts(policy_pairs):
    with pytest.raises(DataError, match="the replies answer different prompts, for one thinks"):
        policy_pairs([pair(1, chosen="<think>\nhm\n</think>\nyes")])


def test_rewards_and_strengths_come_with_their_rows_or_the_row_is_refused(
    policy_pairs, tokenizer, write_jsonl, tmp_path
):
    chosen, rejected = policy_pairs(
        [{**pair(1), "chosen_reward": 2, "rejected_reward": -0.5}], "policy_by_rewards"
    ).documents(0)
    assert set(chosen.extras["rewards"][:-1].tolist()) == {2.0}
    assert set(rejected.extras["rewards"][:-1].tolist()) == {-0.5}
    with pytest.raises(DataError, match="has no number `rejected_reward`"):
        policy_pairs([{**pair(1), "chosen_reward": 2}], "policy_by_rewards")
    data = PairSetConfig(path=write_jsonl([{**pair(1), "margin": 3}]))
    store = build_pairs(data, 512, tokenizer.folder, tmp_path / "cache", of="scores_by_strength")
    assert [set(d.extras["strength"][:-1].tolist()) for d in store.documents(0)] == [{3.0}, {3.0}]
