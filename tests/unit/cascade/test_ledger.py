"""The ledger: what is written stays as it was written, or is refused by line."""

import json

import pytest

from nemo_cascade.cascade.ledger import GENESIS, Ledger, read_ledger
from nemo_cascade.errors import RunFolderError
from nemo_cascade.storage.hashes import hash_file, hash_folder, hash_json


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "run" / "ledger.jsonl")
    ledger.append("run_started", config="c" * 64, seed=0)
    ledger.append("stage_started", "sft1", kind="sft", parent="start")
    ledger.append("trained", stage="sft1", loss=0.1 + 0.2)
    ledger.append("run_finished")
    return ledger


def test_events_come_back_in_order_and_chained(ledger):
    again = Ledger(ledger.path)
    assert again.records == ledger.records
    assert [record.number for record in again.records] == [0, 1, 2, 3]
    assert again.records[0].previous == GENESIS
    for before, after in zip(again.records, again.records[1:], strict=False):
        assert after.previous == before.hash
    again.append("run_started")
    assert len(read_ledger(ledger.path)) == 5


def test_the_newest_matching_event_is_found(ledger):
    ledger.append("trained", "math_rl", loss=1.0)
    assert ledger.find("trained").stage == "math_rl"
    assert ledger.find("trained", "sft1").details == {"loss": 0.1 + 0.2}
    assert ledger.find("trained", "code_rl") is None


@pytest.mark.parametrize(
    ("damage", "line", "why"),
    [
        (lambda lines: [lines[0].replace('"seed":0', '"seed":1'), *lines[1:]], 1, "was altered"),
        (lambda lines: [lines[0], lines[1].replace("sft1", "sft2"), *lines[2:]], 2, "was altered"),
        (lambda lines: [lines[0], *lines[2:]], 2, "doesn't follow"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2, "doesn't follow"),
        (lambda lines: lines[1:], 1, "doesn't follow"),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 2, "doesn't follow"),
        (lambda lines: [*lines[:2], "garbage\n", *lines[3:]], 3, "isn't a JSON object"),
    ],
)
def test_an_altered_ledger_is_refused_naming_the_line(ledger, damage, line, why):
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(damage(lines)))
    with pytest.raises(RunFolderError, match=rf"line {line} of .*{why}"):
        Ledger(ledger.path)


def test_a_forged_record_with_its_own_hash_still_breaks_the_chain(ledger):
    lines = ledger.path.read_text().splitlines()
    forged = json.loads(lines[1])
    forged["details"]["kind"] = "grpo"
    forged["hash"] = hash_json({key: value for key, value in forged.items() if key != "hash"})
    lines[1] = json.dumps(forged)
    ledger.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunFolderError, match="line 3"):
        Ledger(ledger.path)


def test_a_last_line_cut_short_is_dropped_and_the_chain_goes_on(ledger):
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-20])
    again = Ledger(ledger.path)
    assert [record.event for record in again.records] == ["run_started", "stage_started", "trained"]
    again.append("resumed")
    assert read_ledger(ledger.path)[-1].previous == ledger.records[2].hash


def test_a_detail_that_json_cannot_hold_is_refused_and_leaves_no_line(ledger):
    for bad in (float("nan"), object()):
        with pytest.raises(RunFolderError, match="event scored"):
            ledger.append("scored", value=bad)
    assert len(read_ledger(ledger.path)) == 4


def test_hashes_follow_content_and_names_only(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "x.bin").write_bytes(b"1234")
        (tmp_path / name / "y").write_bytes(b"")
    same = hash_folder(tmp_path / "a")
    assert same == hash_folder(tmp_path / "b")
    (tmp_path / "b" / "inner" / "x.bin").write_bytes(b"1235")
    assert hash_folder(tmp_path / "b") != same
    (tmp_path / "a" / "y").rename(tmp_path / "a" / "z")
    assert hash_folder(tmp_path / "a") != same
    assert hash_file(tmp_path / "a" / "z") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
