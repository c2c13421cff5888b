"""What a run goes on from and isn't what it was: other data, other references, damaged files."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.config.stages.rollout_rules import PromptFilterConfig
from nemo_cascade.data.pairs import build_pair_stores
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.prompt_stream import PromptStream
from nemo_cascade.data.responses import open_responses
from nemo_cascade.data.sft.store import open_store
from nemo_cascade.errors import DataError
from nemo_cascade.types import Task
from tests.cases.conftest import write
from tests.unit.data.conftest import conversation

ROWS = [conversation(f"{i}+1", str(i + 1)) for i in range(5)]


def stream(prompts, state=None):
    return PromptStream(PromptSet(prompts), 1, PromptFilterConfig(), 1, state)


@pytest.mark.parametrize(
    "record",
    [
        {"answer": "5"},
        {"answer": 4},
        {"answer": "4", "tests": ["assert f() == 4"]},
        {"answer": "4", "instruction_id_list": ["punctuation:no_comma"]},
        {"answers": "4"},
        {"answer": None},
        {"answer": "4", "mode": "no_think"},
        {},
    ],
)
def test_rl_does_not_go_on_with_other_references(record):
    prompt = Task("rows/1", "math", "math", np.array([1, 2], np.int32), {"answer": "4"})
    state = json.loads(json.dumps(stream([prompt]).state()))
    stream([prompt], state)
    stream([replace(prompt, record=dict(reversed(prompt.record.items())))], state)
    with pytest.raises(DataError, match="what their verifier judges by, changed since the checkpoint"):
        stream([replace(prompt, record=record)], state)


@pytest.mark.parametrize("change", ["another row", "another file", "a file of another name"])
def test_local_folder_that_changed_since_datasets_read_it_is_refused(build, tmp_path, change):
    folder = tmp_path / "local"
    first = write(folder / "a.jsonl", ROWS[:1])
    for _ in range(2):
        assert build(f"hf://{folder}").stats["samples"] == 1
    if change == "another row":
        write(first, ROWS)
    elif change == "another file":
        write(folder / "b.jsonl", ROWS)
    else:
        first.rename(folder / "c.jsonl")
    with pytest.raises(
        DataError, match=r"changed since its rows were read; got: .*local.*mend: remove .*hub"
    ) as raised:
        build(f"hf://{folder}")
    shutil.rmtree(re.search(r"remove (.*);", raised.value.mend)[1])
    assert build(f"hf://{folder}").stats["samples"] == {"another row": 5, "another file": 6}.get(change, 1)


def test_rows_that_were_read_stay_when_the_folder_is_gone(build, tmp_path):
    folder = tmp_path / "local"
    write(folder / "a.jsonl", ROWS)
    assert build(f"hf://{folder}").stats["samples"] == 5
    shutil.rmtree(folder)
    assert build(f"hf://{folder}").stats["samples"] == 5


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"{}"])
def test_damaged_statistics_of_packed_data_are_told_by_name(build, tmp_path, damage):
    store = build(write(tmp_path / "rows.jsonl", ROWS))
    (store.folder / "stats.json").write_bytes(damage)
    with pytest.raises(DataError, match=r"stats\.json|another format"):
        open_store(store.folder)


@pytest.fixture
def pairs(nano, tmp_path):
    def pair(i):
        return {"messages": [{"role": "user", "content": f"question {i}"}], "chosen": "right", "rejected": "wrong"}

    path, held = write(tmp_path / "p.jsonl", map(pair, range(4))), write(tmp_path / "h.jsonl", [pair(9)])
    data = PairDataConfig(path=str(path), holdout_path=str(held))
    return build_pair_stores(data, 512, nano, tmp_path / "cache")[0]


@pytest.mark.parametrize(
    "name", ["tokens.bin", "trained.bin", "offsets.npy", "values.npy", "prompts.npy", "stats.json"]
)
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_pairs_are_told_by_name(pairs, name, how):
    file = pairs.folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    flipped_fact = name == "stats.json" and how == "flipped"  # it may be one that says nothing of a file
    if flipped_fact:
        file.write_text(file.read_text(errors="replace").replace('"files"', '"filed"'))
    with pytest.raises(DataError, match=r"responses|stats\.json"):
        open_responses(pairs.folder)
