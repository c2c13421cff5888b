"""Files and folders are on disk before they have their name, and a full disk leaves what was there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_cascade.storage.atomic import write_atomically, write_json
from nemo_cascade.storage.jsonl import append_line
from nemo_cascade.storage.publish import publishing

ROOT = Path(__file__).parents[3]

# On a disk of 256 KiB of its own.
FULL_DISK = """
import errno, sys
from pathlib import Path
from nemo_cascade.storage.atomic import write_atomically
from nemo_cascade.storage.publish import publishing
disk = Path(sys.argv[1])
def refused(act):
    try:
        act()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    else:
        raise AssertionError("written")
def publish(size):
    with publishing(disk / "folder") as folder:
        (folder / "a").write_bytes(bytes(size))
        (folder / "b").write_bytes(bytes(size))
write_atomically(disk / "file", b"old")
publish(100)
refused(lambda: write_atomically(disk / "file", bytes(1 << 20)))
refused(lambda: publish(200_000))
assert (disk / "file").read_bytes() == b"old"
assert [file.stat().st_size for file in (disk / "folder").iterdir()] == [100, 100]
assert sorted(path.name for path in disk.iterdir()) == ["file", "folder"]
"""


@pytest.fixture
def events(monkeypatch):
    """Names of what is flushed, and old and new name of what is renamed, in order."""
    seen = []
    fsync = os.fsync

    def flushed(handle):
        seen.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flushed)
    for name in ("rename", "replace"):
        act = getattr(os, name)

        def renamed(old, new, act=act):
            seen.append((Path(old).name, Path(new).name))
            act(old, new)

        monkeypatch.setattr(os, name, renamed)
    return seen


def test_a_file_is_flushed_then_named_then_its_folder_flushed(events, tmp_path):
    write_atomically(tmp_path / "deep" / "file", b"content")
    draft = f".file.{os.getpid()}.tmp"
    assert events == [draft, (draft, "file"), "deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_first_line_flushes_the_folder_too(events, tmp_path):
    for _ in range(2):
        append_line(tmp_path / "lines", {"n": 1})
    assert events == ["lines", tmp_path.name, "lines"]


def test_all_of_a_folder_is_flushed_before_it_is_named(events, tmp_path):
    with publishing(tmp_path / "final") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "inner").write_text("1")
        (folder / "outer").write_text("2")
        (folder / "link").symlink_to("/proc/version")  # what it points to may be huge, or not to be flushed
    assert events == ["inner", "deep", "outer", folder.name, (folder.name, "final"), tmp_path.name]


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path):
    mount = f'mount -t tmpfs -o size=256k none "{tmp_path}" && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-ec", mount, "sh", sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_json_has_no_word_for_is_refused_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "file", {"x": 0.1 + 0.2})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", {"x": float("nan")})
    assert (tmp_path / "file").read_text() == '{\n "x": 0.30000000000000004\n}\n'
