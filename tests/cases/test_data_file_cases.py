"""Files and folders that people stumbled over: read as they are meant, or refused by name."""

import gzip
import json
import os
import re
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_cascade.cli.main import main
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.stages.sft_data import DecontaminateConfig, DedupConfig
from nemo_cascade.data.rows.files import data_files
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.sources import decode_row, read_raw
from nemo_cascade.data.rows.tables import table_rows
from nemo_cascade.errors import DataError
from tests.cases.conftest import write
from tests.unit.data.conftest import conversation

ROWS = [conversation(f"{i}+1", str(i + 1)) for i in range(5)]


def rows_of(path):
    return [decode_row(raw) for raw in read_raw(path)]


# --- damaged files


def test_bytes_that_are_no_utf8_make_a_bad_row(build, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[1] = lines[1].replace(b"1+1", b"\xed\xa0\x80")
    lines[3] = lines[3].replace(b"3+1", b"caf\xe9")
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    with pytest.raises(DataError, match="2 rows are no training conversations") as raised:
        build(path)
    assert f"{path}:2: broken line: 'utf-8' codec" in str(raised.value)
    assert f"{path}:4: broken line: 'utf-8' codec" in str(raised.value)
    assert build(path, max_bad_fraction=0.4).stats["samples"] == 3


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none"])
def test_damaged_page_is_refused_by_file_and_row(build, tmp_path, compression):
    path = tmp_path / "rows.parquet"
    table = pa.Table.from_pylist([conversation(os.urandom(30).hex(), str(i)) for i in range(3000)])
    pq.write_table(table, path, compression=compression, row_group_size=500)
    begin = pq.read_metadata(path).row_group(3).column(0).data_page_offset
    whole = bytearray(path.read_bytes())
    whole[begin : begin + 200] = b"\xff" * 200
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"not parquet, or damaged, behind row \d+") as raised:
        build(path)
    assert str(path) in str(raised.value)


def damaged_files():
    table = pa.Table.from_pylist(ROWS)
    parquet, arrow = pa.BufferOutputStream(), pa.BufferOutputStream()
    pq.write_table(table, parquet)
    with pa.ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table)
    whole = {".parquet": parquet.getvalue().to_pybytes(), ".arrow": arrow.getvalue().to_pybytes()}
    for suffix, content in whole.items():
        yield suffix, b""
        yield suffix, b"PAR1PAR1"
        yield suffix, b"\0" * 200
        yield suffix, content[: len(content) // 2]
        yield suffix, content[: len(content) * 3 // 4] + b"\xff" * (len(content) // 4)
        yield suffix, json.dumps(ROWS[0]).encode()


@pytest.mark.parametrize(("suffix", "content"), list(damaged_files()))
def test_file_that_is_no_table_is_refused_by_name(build, tmp_path, suffix, content):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"not {suffix[1:]}, or damaged") as raised:
        build(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_row_of_a_table_that_is_no_text_is_a_bad_row(build, tmp_path, suffix):
    rows = [f"{i}+1".encode() for i in range(4)]
    rows[2] = b"caf\xe9 \xff"
    questions = pa.Array.from_buffers(pa.string(), 4, pa.array(rows, pa.binary()).buffers())
    table, path = pa.table({"q": questions, "a": ["1", "2", "3", "4"]}), tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    source = {"columns": {"user": "q", "assistant": "a"}}
    with pytest.raises(DataError) as raised:
        build(path, source=source)
    assert f"{path}:3: a row that can't be read: 'utf-8' codec" in str(raised.value)
    assert build(path, source=source, max_bad_fraction=0.25).stats["samples"] == 3


def test_table_without_rows_is_told_as_such(build, tmp_path):
    empty = pa.Table.from_pylist(ROWS).slice(0, 0)
    path = tmp_path / "rows.parquet"
    with pq.ParquetWriter(path, empty.schema):
        pass
    assert pq.read_metadata(path).num_row_groups == 0
    rules = [{}, {"dedup": DedupConfig(method="near")}]
    evaluation = write(tmp_path / "evaluation.jsonl", [{"prompt": "one two three"}])
    rules.append({"decontaminate": DecontaminateConfig(against=[str(evaluation)])})
    for data in rules:
        with pytest.raises(DataError, match="no sample to train on; got: 0 rows read"):
            build(path, **data)
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, empty.schema):
        pass
    with pytest.raises(DataError, match="no sample to train on"):
        build(tmp_path / "rows.arrow")
    assert build(path, write(tmp_path / "rows.jsonl", ROWS)).stats["samples"] == 5


def test_time_that_python_cannot_hold_makes_a_bad_row(tmp_path):
    times = pa.array([0, 300_000_000_000, 5], pa.timestamp("s"))  # the second is in the year 11,476
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"when": times, "x": [1, 2, 3]}), path)
    found = list(table_rows(path))
    assert [row.problem is None for row in found] == [True, False, True]
    assert found[1].line == 2


# --- folders


def test_of_several_saved_splits_the_one_asked_for_is_read(tmp_path, build):
    parts = {"train": datasets.Dataset.from_list(ROWS[:2]), "test": datasets.Dataset.from_list(ROWS[2:3])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    source = DataFileConfig(path=str(tmp_path / "set"))
    assert [row for row, _ in rows_of(local_path(source, tmp_path))] == ROWS[:2]
    other = DataFileConfig(path=str(tmp_path / "set"), split="test")
    assert [row for row, _ in rows_of(local_path(other, tmp_path))] == ROWS[2:3]
    assert build(tmp_path / "set").stats["samples"] == 2
    with pytest.raises(DataError, match=r"no such split.*split=validation; allowed: train, test"):
        local_path(DataFileConfig(path=str(tmp_path / "set"), split="validation"), tmp_path)
    with pytest.raises(DataError, match=r"a folder of several splits.*train, test"):
        data_files(tmp_path / "set")
    with pytest.raises(DataError, match=r"a folder of several splits"):
        data_files(tmp_path)


@pytest.mark.parametrize("said", [{"split": "test"}, {"subset": "main"}, {"revision": "abc"}])
def test_what_is_said_of_local_files_and_not_read_is_refused(tmp_path, said):
    path = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(DataError, match=f"no such thing.*{next(iter(said))}="):
        local_path(DataFileConfig(path=str(path), **said), tmp_path)


def test_caches_in_a_saved_set_are_not_its_rows(tmp_path, build):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "set")
    datasets.load_from_disk(tmp_path / "set").map(lambda row: {**row, "x": 1})
    assert len(list((tmp_path / "set").glob("*.arrow"))) == 2
    assert build(tmp_path / "set").stats["samples"] == 5
    (tmp_path / "set" / "state.json").unlink()
    with pytest.raises(DataError, match=r"caches of `datasets`.*cache-"):
        data_files(tmp_path / "set")


def test_saved_set_without_one_of_its_files_is_refused(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "set", num_shards=2)
    next((tmp_path / "set").glob("data-00001*")).unlink()
    with pytest.raises(DataError, match=r"state.json lists and that aren't there.*data-00001-of-00002.arrow"):
        data_files(tmp_path / "set")


@pytest.mark.parametrize(
    "name", ["b.jsonl.gz", "c.json", "D.JSONL", "f.jsonlines", "g.csv", "sub/h.tsv", "i.parquet.zst", "j.zip", "k.pkl"]
)
def test_file_of_another_kind_in_a_folder_is_named(tmp_path, name):
    write(tmp_path / "a.jsonl", ROWS)
    for about in ("README.md", "LICENSE", "dataset_info.json", ".gitattributes", "picture.png"):
        (tmp_path / about).write_text("{}")
    assert [file.name for file in data_files(tmp_path)] == ["a.jsonl"]
    write(tmp_path / name, ROWS)
    with pytest.raises(DataError, match=rf"may be data and aren't read.*{name}"):
        data_files(tmp_path)


@pytest.mark.parametrize(
    "name", ["b.jsonl.bak", "b.jsonl.1", "b.jsonl.part", "b.jsonl~", "part-00001", "b.txt", "b.parquet.tmp", "c.old"]
)
def test_copy_or_part_of_data_in_a_folder_is_named(tmp_path, name):
    write(tmp_path / "a.jsonl", ROWS)
    for about in ("notes.txt", "a.jsonl.sha256", "a.jsonl.lock", "run.log", "version"):
        (tmp_path / about).write_text("two rows are missing")
    assert [file.name for file in data_files(tmp_path)] == ["a.jsonl"]
    write(tmp_path / name, ROWS)
    with pytest.raises(DataError, match=rf"may be data and aren't read.*{re.escape(name)}"):
        data_files(tmp_path)


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"], "train-00001-of-00003.jsonl"),
        (["train-00001-of-00002.jsonl"], "train-00000-of-00002.jsonl"),
        (["a-000-of-002.parquet"], "a-001-of-002.parquet"),
        (["x/part-00002-of-00003.jsonl", "x/part-00003-of-00003.jsonl"], "part-00001-of-00003.jsonl"),
        (["train-00000-of-00001.jsonl", "math-00000-of-00002.jsonl"], "math-00001-of-00002.jsonl"),
        (["t-00000-of-99999.jsonl"], "and 0 more|t-00001-of-99999.jsonl"),
    ],
)
def test_set_without_one_of_its_parts_is_refused(tmp_path, there, missing):
    for name in there:
        write(tmp_path / name, [conversation(name)])
    with pytest.raises(DataError, match=rf"parts of a set that aren't there.*{missing}"):
        data_files(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"],
        ["train-00001-of-00002.jsonl", "train-00002-of-00002.jsonl"],
        ["a-00000-of-00001.jsonl", "b-00000-of-00001.jsonl"],
        ["1-of-2.jsonl"],
    ],
)
def test_set_with_all_its_parts_is_read(tmp_path, names):
    for name in names:
        write(tmp_path / name, [conversation(name)])
    assert [file.name for file in data_files(tmp_path)] == names


def test_file_that_lies_in_a_folder_twice_is_refused(tmp_path):
    def both(name, make):
        first = write(tmp_path / name / "a.jsonl", ROWS)
        make(first)
        with pytest.raises(DataError, match=r"a set's rows twice.*a\.jsonl"):
            data_files(first.parent)

    both("linked", lambda first: (first.parent / "b.jsonl").symlink_to(first))
    both("hard", lambda first: (first.parent / "b.jsonl").hardlink_to(first))
    both(
        "below",
        lambda first: write(first.parent / "sub" / "x", []) and (first.parent / "sub" / "c.jsonl").symlink_to(first),
    )
    both("forms", lambda first: pq.write_table(pa.Table.from_pylist(ROWS), first.with_suffix(".parquet")))
    both("again", lambda first: shutil.copy(first, first.with_name("a (1).jsonl")))
    both("copy", lambda first: shutil.copy(first, first.with_name("a copy.jsonl")))
    write(tmp_path / "other" / "a.jsonl", ROWS)
    write(tmp_path / "other" / "a (1).jsonl", ROWS[:2])
    assert len(data_files(tmp_path / "other")) == 2


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(b"{}", mtime=0), "compressed \\(gzip\\)"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed \\(zstandard\\)"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"PAR1\x15\x04", "a parquet file"),
        (json.dumps(ROWS[0]).encode("utf-16"), "in UTF-16"),
        (json.dumps(ROWS[0]).encode("utf-32"), "in UTF-16 or UTF-32"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer"),
        (b"BZh91AY", "compressed \\(bzip2\\)"),
    ],
)
def test_lines_that_are_something_else_are_told_as_such(build, tmp_path, content, what):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"named .jsonl, and is {what}.*mend: "):
        build(path)
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not parquet, or damaged|a Git LFS pointer"):
        build(path)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_two_columns_of_one_name_are_refused(build, tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    table = pa.Table.from_arrays([pa.array(["q"]), pa.array(["a"]), pa.array(["b"])], names=["q", "a", "a"])
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(DataError, match="several columns are named a"):
        build(path, source={"columns": {"user": "q", "assistant": "a"}})


@pytest.mark.parametrize(
    ("training", "held_out"),
    [
        ("train.jsonl", "test.jsonl"),
        ("data/train-00000-of-00001.jsonl", "data/validation-00000-of-00001.jsonl"),
        ("train/0.jsonl", "dev/0.jsonl"),
        ("math_train.jsonl", "math_eval.jsonl"),
        ("Training/a.jsonl", "VAL.jsonl"),
    ],
)
def test_folder_of_files_of_several_splits_is_refused(tmp_path, training, held_out):
    write(tmp_path / training, ROWS)
    write(tmp_path / "latest.jsonl", ROWS)
    assert len(data_files(tmp_path)) == 2
    write(tmp_path / held_out, ROWS)
    with pytest.raises(DataError, match="a folder that holds several splits") as raised:
        data_files(tmp_path)
    assert training in str(raised.value)
    assert held_out in str(raised.value)


def test_hidden_files_are_no_data_and_linked_ones_are(tmp_path):
    write(tmp_path / "set" / "a.jsonl", ROWS)
    write(tmp_path / "set" / ".ipynb_checkpoints" / "a-checkpoint.jsonl", ROWS)
    write(tmp_path / "set" / "._a.jsonl", ROWS)
    write(tmp_path / "set" / "__pycache__" / "a.jsonl", ROWS)
    write(tmp_path / "elsewhere" / "b.jsonl", ROWS)
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "linked" / "back").symlink_to(tmp_path / "set")
    assert [file.name for file in data_files(tmp_path / "set")] == ["a.jsonl", "b.jsonl"]
    (tmp_path / "set" / "c.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match=r"links to nowhere.*c\.jsonl"):
        data_files(tmp_path / "set")


def test_file_whose_name_is_no_text_is_refused(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    shutil.copy(tmp_path / "a.jsonl", os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    for path in (tmp_path, os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")):
        with pytest.raises(DataError, match=r"names are no UTF-8") as raised:
            data_files(path)
        str(raised.value).encode()


# --- JSON in tables


def test_json_columns_of_tables_are_what_the_lines_hold(tmp_path, build):
    tools = [{"name": "f", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    call = {"name": "f", "arguments": {"city": "Rome", "days": None, "at": [1, 2.5]}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "a"},
    ]
    lines = write(tmp_path / "rows.jsonl", [{"messages": messages, "tools": tools}])
    text, json_, turns = (
        datasets.Value("string"),
        datasets.Json(),
        [{**m, "tool_calls": m.get("tool_calls")} for m in messages],
    )
    calls = datasets.List({"name": text, "arguments": json_})
    features = datasets.Features(
        {"messages": datasets.List({"role": text, "content": text, "tool_calls": calls}), "tools": datasets.List(json_)}
    )
    saved = datasets.Dataset.from_list([{"messages": turns, "tools": tools}], features=features)
    saved.to_parquet(tmp_path / "rows.parquet")
    saved.save_to_disk(tmp_path / "saved")
    whole = datasets.Dataset.from_list(
        [{"messages": messages, "tools": tools}], features=datasets.Features({"messages": json_, "tools": json_})
    )
    whole.to_parquet(tmp_path / "whole.parquet")
    expected = rows_of(lines)
    for path in (tmp_path / "rows.parquet", tmp_path / "saved", tmp_path / "whole.parquet"):
        assert rows_of(path) == expected
        assert build(path).document(0).input_ids.tolist() == build(lines).document(0).input_ids.tolist()


# --- long rows


def test_chunks_of_long_rows_are_bounded_by_their_size(tmp_path):
    rows = [{"text": "x" * 400_000, "n": i} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    sizes = [raw.size for raw in table_rows(tmp_path / "rows.parquet")]
    assert len(sizes) == 30
    assert min(sizes) >= 400_000


# --- the command line


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\\udfff"}]}', "surrogate"),
        ('{"id": ' + "1" * 5000 + "}", "4300 digits"),
        (
            '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "mask": 0}]}',
            "'mask'",
        ),
    ],
)
def test_command_refuses_a_row_by_file_and_line(data_dir, tmp_path, capsys, line, reason):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    command = [
        "prepare",
        "stage=sft1",
        "cascade=nano",
        f"data_dir={data_dir}",
        f"stages.sft1.data.sources=[{{path: {path}}}]",
    ]
    assert main(command) == 2
    told = capsys.readouterr().err.replace("\n", "")
    assert "r.jsonl:2" in told.replace(" ", "")
    assert reason in told
