import json

import pytest

from nemo_cascade.errors import CheckpointError
from nemo_cascade.storage.publish import UNFINISHED
from nemo_cascade.training.checkpoints.folders import CheckpointStore, verify


def _write(store, step, payload=b"weights"):
    with store.saving(step) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "__0_0.distcp").write_bytes(payload * 1000)
        (folder / "common.pt").write_bytes(b"common" + bytes([step]))
    return store.folder / f"step_{step:06d}"


def test_newest_is_the_latest_committed_one(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=3)
    assert store.newest() is None
    for step in (5, 10, 20):
        _write(store, step)
    assert store.newest() == (20, tmp_path / "checkpoints" / "step_000020")
    assert store.damaged == []


def test_a_save_that_fails_or_is_killed_never_counts_and_leaves_nothing(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    _write(store, 5)
    with pytest.raises(FileNotFoundError), store.saving(10) as folder:
        (folder / "no such folder" / "half.distcp").write_bytes(b"x")
    killed = tmp_path / f".step_000010.x1{UNFINISHED}"
    killed.mkdir()
    (killed / "half.distcp").write_bytes(b"x")
    assert CheckpointStore(tmp_path, keep=2).newest()[0] == 5
    _write(store, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000005", "step_000010"]


@pytest.mark.parametrize("name", ["deep/__0_0.distcp", "common.pt", "manifest.json"])
def test_one_flipped_byte_anywhere_refuses_the_checkpoint_by_file_name(tmp_path, name):
    store = CheckpointStore(tmp_path, keep=3)
    _write(store, 10)
    path = _write(store, 20) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert store.newest()[0] == 10
    assert len(store.damaged) == 1
    assert store.damaged[0].startswith(f"step_000020/{name}")


def test_missing_and_truncated_files_are_named(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    first, second = _write(store, 1), _write(store, 2)
    (first / "common.pt").unlink()
    with (second / "deep" / "__0_0.distcp").open("r+b") as file:
        file.truncate(10)
    assert store.newest() is None
    assert "common.pt: missing" in store.damaged[1]
    assert "10 bytes" in store.damaged[0]


def test_pruning_keeps_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        _write(store, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000003", "step_000004"]


def test_a_refused_checkpoint_is_replaced_when_its_step_comes_again(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    folder = _write(store, 7)
    (folder / "common.pt").write_bytes(b"broken")
    assert store.newest() is None
    _write(store, 7, b"again")
    assert store.newest() == (7, folder)
    assert verify(folder) is None


def test_manifest_lists_every_file_with_size_and_hash(tmp_path):
    manifest = json.loads((_write(CheckpointStore(tmp_path, keep=1), 3) / "manifest.json").read_text())
    assert manifest["step"] == 3
    assert manifest["files"]["deep/__0_0.distcp"]["bytes"] == 7000
    assert len(manifest["files"]["common.pt"]["blake3"]) == 64


def test_an_empty_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="empty checkpoint"), CheckpointStore(tmp_path, keep=1).saving(1):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="keep_checkpoints"):
        CheckpointStore(tmp_path, keep=0)
