import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_cascade.data.chat.encode import encode_conversation
from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.errors import DataError
from tests.unit.data.conftest import conversation, sft_stage


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def all_tokens(store):
    return np.concatenate([shard.tokens() for shard in store.shards])


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return [conversation(f"{i}+{i}" * int(rng.integers(1, 5)), str(2 * i)) for i in range(n)]


def test_packs_hold_each_sample_whole_with_its_mask_and_shifted_labels(tokenizer, write_jsonl, tmp_path):
    data = rows(60)
    store = build_packed_store(sft_stage(write_jsonl(data)), tokenizer.folder, tmp_path / "cache")
    expected = sorted(
        (ids.tolist(), mask.tolist()) for ids, mask in (encode_conversation(tokenizer, r["messages"]) for r in data)
    )
    seen = []
    for pack in range(len(store)):
        batch = store.batch(pack)
        assert batch.num_tokens <= 128
        for begin, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
            ids, labels, mask = (a[begin:end] for a in (batch.input_ids, batch.labels, batch.loss_mask))
            assert labels[:-1].tolist() == ids[1:].tolist()
            assert labels[-1] == mask[-1] == 0
            seen.append((ids.tolist(), [0, *mask[:-1].astype(int).tolist()]))
    assert sorted(seen) == expected


def test_rebuilt_store_is_byte_identical_and_a_built_one_is_reused(tokenizer, write_jsonl, tmp_path):
    stage = sft_stage(write_jsonl(rows(40)))
    first = build_packed_store(stage, tokenizer.folder, tmp_path / "a")
    second = build_packed_store(stage, tokenizer.folder, tmp_path / "b")
    assert first.folder.name == second.folder.name
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    build_packed_store(stage, tokenizer.folder, tmp_path / "a")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")} == written


def test_anything_that_changes_the_packs_changes_the_key(tokenizer, write_jsonl, tmp_path):
    path = write_jsonl(rows(10))
    stages = [
        sft_stage(path),
        sft_stage(path, seq_length=256),
        sft_stage(path, shuffle_seed=1),
        sft_stage(path, source={"repeat": 2}),
        sft_stage(path, source={"max_samples": 5}),
        sft_stage(path, source={"domain": "math"}),
        sft_stage(write_jsonl(rows(10, seed=1), "other.jsonl")),
    ]
    keys = {build_packed_store(s, tokenizer.folder, tmp_path / "c").folder.name for s in stages}
    assert len(keys) == 7


def test_simultaneous_builders_agree_and_leave_nothing_behind(tokenizer, write_jsonl, tmp_path):
    stage, built = sft_stage(write_jsonl(rows(200))), []
    threads = [
        threading.Thread(target=lambda: built.append(build_packed_store(stage, tokenizer.folder, tmp_path / "c")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 4
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == sorted(["tokens", built[0].folder.name])
    assert len(list((tmp_path / "c" / "tokens").iterdir())) == 1


def test_repeat_max_samples_and_domains_are_counted(tokenizer, write_jsonl, tmp_path):
    stage = sft_stage(write_jsonl(rows(10)), source={"repeat": 3, "max_samples": 6, "domain": "math"})
    store = build_packed_store(stage, tokenizer.folder, tmp_path / "c")
    counts = np.bincount(store.pack_samples)
    assert counts.tolist() == [3] * 6
    assert store.stats["domains"]["math"]["samples_per_epoch"] == 18
    assert store.stats["trained_tokens_per_epoch"] == 3 * int(store.shards[0].mask().sum())
    assert sum(store.stats["length_histogram"].values()) == 6


def test_every_broken_row_is_counted_and_the_first_twenty_named(tokenizer, write_jsonl, tmp_path):
    bad = [f'{{"messages": [{i}\n' for i in range(25)]
    path = write_jsonl([conversation(), *bad, {"text": "x"}, conversation()])
    with pytest.raises(DataError) as raised:
        build_packed_store(sft_stage(path), tokenizer.folder, tmp_path / "c")
    message = str(raised.value)
    assert "26 rows are no training conversations" in message
    assert f"{path}:2: broken line" in message
    assert f"{path}:21:" in message
    assert f"{path}:22:" not in message
    assert "6 more" in message
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["tokens"]


def test_sample_without_assistant_turn_is_refused_or_counted(tokenizer, write_jsonl, tmp_path):
    path = write_jsonl([conversation()] * 9 + [{"messages": [{"role": "user", "content": "q"}]}])
    with pytest.raises(DataError, match=r"1 of 10 samples can't be trained on \(1 without an assistant turn") as raised:
        build_packed_store(sft_stage(path), tokenizer.folder, tmp_path / "c")
    assert f"{path}:10: no assistant turn" in str(raised.value)
    stats = build_packed_store(sft_stage(path, max_bad_fraction=0.1), tokenizer.folder, tmp_path / "c").stats
    assert (stats["samples"], stats["dropped_untrainable"]) == (9, 1)


def test_overlong_sample_is_refused_or_dropped_within_its_limit(tokenizer, write_jsonl, tmp_path):
    path = write_jsonl([conversation()] * 9 + [conversation("1" * 200)])
    with pytest.raises(DataError, match="longer than seq_length=128"):
        build_packed_store(sft_stage(path), tokenizer.folder, tmp_path / "c")
    with pytest.raises(DataError, match=r"1 longer than seq_length=128; allowed share 0\.05"):
        build_packed_store(sft_stage(path, overlong="drop", max_bad_fraction=0.05), tokenizer.folder, tmp_path / "c")
    stage = sft_stage(path, overlong="drop", max_bad_fraction=0.1)
    assert build_packed_store(stage, tokenizer.folder, tmp_path / "c").stats["dropped_overlong"] == 1


def test_parquet_folder_gives_the_same_tokens_as_jsonl(tokenizer, write_jsonl, tmp_path):
    data = rows(20)
    data[3]["messages"][1]["reasoning_content"] = "hm"
    (tmp_path / "parts").mkdir()
    for i in range(2):
        pq.write_table(pa.Table.from_pylist(data[i * 10 : i * 10 + 10]), tmp_path / "parts" / f"{i}.parquet")
    stores = [
        build_packed_store(sft_stage(p), tokenizer.folder, tmp_path / "c")
        for p in (write_jsonl(data), str(tmp_path / "parts"))
    ]
    assert np.array_equal(all_tokens(stores[0]), all_tokens(stores[1]))


@pytest.mark.parametrize(("name", "problem"), [("none.jsonl", "no such data file"), ("rows.csv", "unknown kind")])
def test_path_that_holds_no_data_is_refused(tokenizer, tmp_path, name, problem):
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=problem):
        build_packed_store(sft_stage(str(tmp_path / name)), tokenizer.folder, tmp_path / "c")
