"""The tokenised set: cut into shards, made by any number of processes, killed and resumed, damaged and refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_cascade.config.stages.sft_data import DedupConfig
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.data.rows.units import plan_units, read_unit, unit_content
from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.data.sft.store import open_store
from nemo_cascade.errors import DataError
from tests.unit.data.conftest import conversation, sft_stage

BUILD = """
import sys
from nemo_cascade.data.sft.build import build_packed_store
from tests.unit.data.conftest import sft_stage
if __name__ == "__main__":
    stage = sft_stage(sys.argv[1], workers=2)
    print(build_packed_store(stage, sys.argv[2], sys.argv[3]).folder.name)
"""


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.fixture
def parts(tmp_path, write_jsonl):
    """A folder of six files, each of which becomes a shard."""
    return write_parts(tmp_path, write_jsonl, 6, 400)


def write_parts(tmp_path, write_jsonl, files, rows):
    folder = tmp_path / "parts"
    folder.mkdir()
    for part in range(files):
        write_jsonl([conversation(f"{part}+{i}" * 3, str(i)) for i in range(rows)], f"parts/{part}.jsonl")
    return str(folder)


@pytest.mark.parametrize("unit_bytes", [1, 40, 100, 1000, 10**6])
def test_units_hold_every_row_once_in_order_whatever_their_size(write_jsonl, unit_bytes):
    path = write_jsonl([*(f'{{"n": {i}, "pad": "{"x" * (i % 7) * 9}"}}\n' for i in range(50)), "\n", "last, unended"])
    lines = Path(path).read_bytes().splitlines(keepends=True)
    units, found, line = plan_units(path, unit_bytes=unit_bytes), [], 0
    for unit in units:
        found += [(line + row.line, row.payload) for row in read_unit(unit)]
        line += unit_content(unit).lines
    assert found == [(number, text) for number, text in enumerate(lines, 1) if text.strip()]
    assert len(units) == 1 if unit_bytes == 10**6 else len(units) > 1
    some = [row.payload for unit in plan_units(path, 20, unit_bytes) for row in read_unit(unit)]
    assert some == lines[:20]


@pytest.mark.parametrize("unit_bytes", [1, 2000, 10**6])
@pytest.mark.parametrize("max_rows", [None, 0, 9, 10, 25, 100])
def test_units_of_parquet_are_row_groups_in_order_each_row_in_one(tmp_path, unit_bytes, max_rows):
    rows = [{"n": i, "text": "x" * (i % 7) * 20} for i in range(47)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=10)
    units, found = plan_units(tmp_path, max_rows, unit_bytes), []
    for unit in units:
        found += [(unit.rows_before + row.line, row.payload) for row in read_unit(unit)]
    assert found == list(enumerate(rows, 1))[:max_rows]
    if max_rows is None:
        assert (len(units) == 1) == (unit_bytes == 10**6)
        assert len({unit_content(unit).key for unit in units}) == len(units)


def test_rows_of_parquet_are_named_by_their_number_in_the_file(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_cascade.data.rows.units.plan_units.__defaults__", (None, 1))
    rows = [conversation(f"{i}+{i}", str(2 * i)) for i in range(30)]
    rows[23] = conversation("1" * 200, "1")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=10)
    with pytest.raises(DataError, match=r"rows.parquet:24: \d+ tokens"):
        build_packed_store(sft_stage(str(tmp_path / "rows.parquet")), tokenizer.folder, tmp_path / "c")
    assert len(list((tmp_path / "c" / "tokens").iterdir())) == 3


def test_appended_rows_and_files_leave_all_other_shards_as_they_are(tokenizer, parts, tmp_path, write_jsonl):
    before = build_packed_store(sft_stage(parts), tokenizer.folder, tmp_path / "c")
    shards = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "c" / "tokens").iterdir()}
    write_jsonl([conversation("9*9", "81")], "parts/new.jsonl")
    with Path(parts, "5.jsonl").open("a") as stream:
        stream.write('{"messages": []}\n'.replace("[]", str(conversation("1", "2")["messages"]).replace("'", '"')))
    after = build_packed_store(sft_stage(parts), tokenizer.folder, tmp_path / "c")
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "c" / "tokens").iterdir()}
    assert after.stats["samples"] == before.stats["samples"] + 2
    assert shards.items() <= now.items()
    assert len(now) == len(shards) + 2


def test_one_tokenised_set_serves_several_packings(tokenizer, parts, tmp_path):
    first = build_packed_store(sft_stage(parts), tokenizer.folder, tmp_path / "c")
    shards = files_of(tmp_path / "c" / "tokens")
    second = build_packed_store(sft_stage(parts, seq_length=512), tokenizer.folder, tmp_path / "c")
    assert len(second) < len(first)
    assert files_of(tmp_path / "c" / "tokens") == shards


@pytest.mark.long  # twice the set; a killed writer is met in unit/storage
def test_killed_in_the_middle_and_run_again_gives_the_bytes_of_an_undisturbed_run(tokenizer, write_jsonl, tmp_path):
    parts = write_parts(tmp_path, write_jsonl, 12, 2000)  # two seconds of work: time to be killed in
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", BUILD, parts, tokenizer.folder, str(killed)]
    child = subprocess.Popen(command, start_new_session=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 60
    while not (done := list((killed / "tokens").glob("[!.]*"))) and time.monotonic() < deadline:
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert 0 < len(done) < 12
    made = {p: (p / "tokens.bin").stat().st_mtime_ns for p in done}
    while remains(child.pid) and time.monotonic() < deadline:  # workers follow their parent
        time.sleep(0.01)
    assert not remains(child.pid)
    build_packed_store(sft_stage(parts, workers=1), tokenizer.folder, killed)
    build_packed_store(sft_stage(parts, workers=1), tokenizer.folder, whole)
    assert files_of(killed) == files_of(whole)
    assert {p: (p / "tokens.bin").stat().st_mtime_ns for p in done} == made


def remains(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("name", ["tokens.bin", "mask.bin", "samples.npy"])
def test_truncated_shard_is_named_and_refused(tokenizer, parts, tmp_path, name):
    store = build_packed_store(sft_stage(parts), tokenizer.folder, tmp_path / "c")
    file = store.shards[3].folder / name
    os.truncate(file, file.stat().st_size - 1)
    for build in (lambda: open_store(store.folder), lambda: rebuilt(parts, tokenizer, tmp_path)):
        with pytest.raises(DataError, match="damaged shard") as raised:
            build()
        assert str(file) in str(raised.value)


def test_flipped_byte_is_named_and_refused_when_its_shard_is_first_read_and_mended_by_removing_it(
    tokenizer, parts, tmp_path
):
    store = build_packed_store(sft_stage(parts), tokenizer.folder, tmp_path / "c")
    batches = [store.batch(pack).input_ids for pack in range(len(store))]
    file = store.shards[2].folder / "tokens.bin"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DataError, match="damaged shard") as raised:
        [open_store(store.folder).batch(pack) for pack in range(len(store))]
    assert str(file) in str(raised.value)
    with pytest.raises(DataError, match=str(file)):
        open_store(store.folder).verify()
    for part in file.parent.iterdir():
        part.unlink()
    file.parent.rmdir()
    again = rebuilt(parts, tokenizer, tmp_path)
    again.verify()
    assert all(np.array_equal(again.batch(pack).input_ids, ids) for pack, ids in enumerate(batches))


def rebuilt(parts, tokenizer, tmp_path):
    return build_packed_store(sft_stage(parts), tokenizer.folder, tmp_path / "c")


@pytest.mark.parametrize("name", ["samples.npy", "pack_samples.npy", "pack_offsets.npy"])
def test_damaged_packing_is_named_and_refused(tokenizer, parts, tmp_path, name):
    store = build_packed_store(sft_stage(parts), tokenizer.folder, tmp_path / "c")
    raw = bytearray((store.folder / name).read_bytes())
    raw[-1] ^= 1
    (store.folder / name).write_bytes(raw)
    with pytest.raises(DataError, match="damaged packed data") as raised:
        open_store(store.folder)
    assert name in str(raised.value)


def test_overlong_sample_is_cut_behind_the_last_reply_that_fits(tokenizer, write_jsonl, tmp_path):
    turns = [t for i in range(12) for t in conversation(f"{i}+{i}", str(2 * i))["messages"]]
    path = write_jsonl([conversation(), {"messages": turns}, conversation("1" * 200)])
    stage = sft_stage(path, overlong="truncate", max_bad_fraction=0.34, workers=1)
    store = build_packed_store(stage, tokenizer.folder, tmp_path / "c")
    assert (store.stats["cut_at_turn"], store.stats["dropped_overlong"], store.stats["samples"]) == (1, 1, 2)
    cut = store.document(1)
    assert 100 < cut.num_tokens <= 128
    assert cut.input_ids[-1] == tokenizer.end_id
    assert cut.loss_mask[-2] == 1
    text = tokenizer.decode(cut.input_ids)
    whole = store.shards[0].tokens()[store.samples[1]["begin"] :][: cut.num_tokens + 30]
    assert tokenizer.decode(whole).startswith(text)
    replies = text.count("<|im_start|>assistant\n")
    assert f"{2 * (replies - 1)}<|im_end|>" == text[-len(f"{2 * (replies - 1)}<|im_end|>") :]
    assert store.stats["trained_tokens_per_epoch"] == cut.loss_mask.sum() + store.document(0).loss_mask.sum()
    with pytest.raises(DataError, match="1 longer than seq_length=128; allowed share 0"):
        build_packed_store(sft_stage(path, overlong="truncate"), tokenizer.folder, tmp_path / "c")


def test_row_that_becomes_several_samples_is_one_row_and_no_repeat_of_itself(tokenizer, write_jsonl, tmp_path):
    turns = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4", "reasoning_content": "add"}]
    row = {"messages": [*turns, {"role": "user", "content": "3+3"}, {"role": "assistant", "content": "6"}]}
    folder = install(Path(tokenizer.folder), "cascade2", tmp_path)
    stage = sft_stage(write_jsonl([row, conversation(), row]), seq_length=256, dedup=DedupConfig(method="exact"))
    store = build_packed_store(stage, folder, tmp_path / "c")
    assert store.stats["rows_read"] == 3
    assert store.stats["dedup"]["exact"] == 2
    assert store.stats["samples"] == 3
