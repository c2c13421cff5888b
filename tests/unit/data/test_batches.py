import pickle

import numpy as np
import pytest

from nemo_cascade.data.batches import PackedSource, balanced_micro_batches
from nemo_cascade.data.layout import make_document, sampled_document
from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.errors import DataError
from nemo_cascade.types import FinishReason, first_turn
from tests.unit.data.conftest import conversation, sft_stage


@pytest.fixture
def packed(tokenizer, write_jsonl, tmp_path):
    path = write_jsonl([conversation(f"{i}+{i}", str(2 * i)) for i in range(100)])
    folder = build_packed_store(sft_stage(path), tokenizer.folder, tmp_path / "cache").folder
    return PackedSource(folder, global_batch_size=6, seed=3)


def contents(batches):
    return sorted(b.input_ids.tobytes() for b in batches if b.loss_mask.any())


def test_global_batch_is_the_same_for_every_data_parallel_size(packed):
    for step in (0, 1, 7, 40):
        whole = contents(packed.micro_batches(step, 0, 1))
        assert len(whole) == 6
        for dp in (2, 3, 4, 8):
            shares = [packed.micro_batches(step, rank, dp) for rank in range(dp)]
            assert {len(s) for s in shares} == {-(-6 // dp)}
            assert contents(b for share in shares for b in share) == whole


def test_reshaping_data_parallelism_in_the_middle_keeps_the_global_order(packed):
    straight = [batch for step in range(15) for batch in packed.micro_batches(step, 0, 1)]
    reshaped = []
    for step in range(15):
        dp = (1, 4, 3)[step // 5]
        shares = [packed.micro_batches(step, rank, dp) for rank in range(dp)]
        reshaped += [shares[place % dp][place // dp] for place in range(packed.global_batch_size)]
    assert [b.input_ids.tobytes() for b in reshaped] == [b.input_ids.tobytes() for b in straight]


def test_any_step_can_be_resumed_from_a_fresh_process(packed):
    straight = [packed.items(step) for step in range(30)]
    fresh = pickle.loads(pickle.dumps(packed))
    assert [fresh.items(step) for step in reversed(range(30))] == straight[::-1]


def test_each_epoch_sees_every_pack_once_in_a_new_order_and_wraps_mid_batch(packed):
    assert packed.num_items % 6 != 0
    stream = [p for step in range(packed.steps(3)) for p in packed.items(step)]
    epochs = [stream[i * packed.num_items : (i + 1) * packed.num_items] for i in range(3)]
    assert all(sorted(e) == list(range(packed.num_items)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert packed.steps(1) == -(-packed.num_items // 6)


def documents(n, seed, longest=60):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        length = int(rng.integers(2, longest))
        ids, extra = rng.integers(1, 99, length), rng.normal(size=length).astype(np.float32)
        trained = (rng.random(length) < 0.5).astype(np.uint8)
        made.append(make_document(ids.astype(np.int32), trained, {"advantages": extra}))
    return made


@pytest.mark.parametrize("dp", [1, 2, 3, 8])
def test_rollouts_are_spread_evenly_and_none_is_lost(dp):
    for seed, n in enumerate((1, 5, 64, 200)):
        source = balanced_micro_batches(documents(n, seed), 64, dp)
        shares = [source.micro_batches(0, rank, dp) for rank in range(dp)]
        assert sorted(i for rank in source.plan for members in rank for i in members) == list(range(n))
        assert len({len(s) for s in shares}) == 1
        assert all(b.num_tokens <= 64 for share in shares for b in share)
        trained = sum(b.loss_mask.sum() for share in shares for b in share)
        assert trained == sum(d.loss_mask.sum() for d in source.documents)
        if n >= 64:
            loads = [sum(b.num_tokens for b in share) for share in shares]
            assert max(loads) <= 1.1 * min(loads)


def test_extras_follow_their_tokens_out_and_back():
    source = balanced_micro_batches(documents(40, 0), 100, 2)
    batches = [source.micro_batches(0, rank, 2) for rank in range(2)]
    back = source.per_sample([[b.extras["advantages"] for b in share] for share in batches])
    for document, values in zip(source.documents, back, strict=True):
        assert np.array_equal(values, document.extras["advantages"])
        assert values[-1] == 0
    doubled = source.with_extra("twice", [2 * v for v in back]).micro_batches(0, 1, 2)
    for batch in doubled:
        assert np.array_equal(batch.extras["twice"], 2 * batch.extras["advantages"])


def test_what_was_sampled_is_trained_with_values_on_predicted_tokens():
    rollout = first_turn(
        "p/1", 0, np.array([5, 6], np.int32), np.array([7, 8, 9], np.int32), np.array([-1, -2, -3], np.float32),
        FinishReason.STOP, 0,
    )  # fmt: skip
    extras = {"behaviour_logprobs": rollout.logprobs, "advantages": 0.5 * rollout.trained.astype(np.float32)}
    document = sampled_document(rollout, extras)
    (batch,) = balanced_micro_batches([document], 8, 1).micro_batches(0, 0, 1)
    assert batch.labels.tolist() == [6, 7, 8, 9, 0]
    assert batch.loss_mask.tolist() == [0, 1, 1, 1, 0]
    assert batch.extras["behaviour_logprobs"].tolist() == [0, -1, -2, -3, 0]
    assert batch.extras["advantages"].tolist() == [0, 0.5, 0.5, 0.5, 0]
    dropped = balanced_micro_batches([sampled_document(rollout, {}, trained=False)], 8, 1).micro_batches(0, 0, 1)
    assert not dropped[0].loss_mask.any()


def test_sample_longer_than_a_micro_batch_is_refused():
    with pytest.raises(DataError, match="longer than a micro-batch"):
        balanced_micro_batches(documents(5, 0), 8, 1)
    with pytest.raises(DataError, match="no sample"):
        balanced_micro_batches([], 8, 1)


def test_what_an_environment_gave_between_two_turns_is_never_trained():
    one = first_turn("p", 0, np.array([5, 6]), np.array([7, 2]), np.array([-1, -2]), FinishReason.STOP, 3)
    asked_again = np.append(one.token_ids, [8, 9])
    two = one.followed_by(first_turn("p", 0, asked_again, np.array([4]), np.array([-3]), FinishReason.LENGTH, 4))
    assert two.token_ids.tolist() == [5, 6, 7, 2, 8, 9, 4]
    assert two.trained.tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert two.versions.tolist() == [-1, -1, 3, 3, -1, -1, 4]
    assert two.logprobs.tolist() == [0, 0, -1, -2, 0, 0, -3]
    assert (two.num_sampled, two.response_ids.tolist(), two.context_ids.size) == (3, [4], 6)
    document = sampled_document(two, {"behaviour_logprobs": two.logprobs})
    (batch,) = balanced_micro_batches([document], 8, 1).micro_batches(0, 0, 1)
    assert batch.loss_mask.tolist() == [0, 1, 1, 0, 0, 1, 0]
    assert batch.extras["behaviour_logprobs"].tolist() == [0, -1, -2, 0, 0, -3, 0]
    with pytest.raises(AssertionError, match="can't change"):
        two.followed_by(one)
