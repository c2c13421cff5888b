"""A folder is published whole or not at all, whoever is killed and whoever else does the same."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_cascade.storage.publish import UNFINISHED, copy_by_links, discard, publishing, remove_unfinished

ROOT = Path(__file__).parents[3]

# Replaces a folder of twenty files over and over; all files of one are alike.
WRITER = """
import itertools, sys
from pathlib import Path
from nemo_cascade.storage.publish import publishing
for n in itertools.count():
    with publishing(Path(sys.argv[1])) as folder:
        for file in range(20):
            (folder / str(file)).write_text(str(n))
    print(n, flush=True)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_killed_at_any_point_the_folder_is_whole_and_the_next_one_clears_up(tmp_path):
    final, caught = tmp_path / "final", 0
    for attempt in range(6):
        child = subprocess.Popen([sys.executable, "-c", WRITER, final], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout.readline()
        time.sleep(0.003 * attempt)
        child.kill()
        child.communicate()
        if final.exists():  # between the old and the new there may be none
            assert len(names(final)) == 20
            assert len({file.read_text() for file in final.iterdir()}) == 1
        caught += any(path.name.endswith(UNFINISHED) for path in tmp_path.iterdir())
        with publishing(final) as folder:
            (folder / "mine").touch()
        assert names(tmp_path) == ["final"]
        assert names(final) == ["mine"]
    assert caught  # in the middle, at least once


def test_what_living_processes_write_stays_and_what_dead_ones_left_goes(tmp_path):
    (tmp_path / f".dead.x1{UNFINISHED}").mkdir()
    with publishing(tmp_path / "first") as first:
        assert names(tmp_path) == [first.name]
        with publishing(tmp_path / "second") as second:
            remove_unfinished(tmp_path)
            assert names(tmp_path) == sorted([first.name, second.name])
        remove_unfinished(tmp_path, alone=True)
        assert names(tmp_path) == ["second"]
        first.mkdir()


def test_an_error_leaves_the_old_folder(tmp_path):
    with publishing(tmp_path / "final") as folder:
        (folder / "old").touch()
    with pytest.raises(FileNotFoundError), publishing(tmp_path / "final") as folder:
        (folder / "new" / "file").touch()
    assert names(tmp_path) == ["final"]
    assert names(tmp_path / "final") == ["old"]


@pytest.mark.parametrize(("keep", "left"), [(True, "theirs"), (False, "mine")])
def test_of_two_who_make_the_same_one_is_kept_or_the_later(tmp_path, keep, left):
    with publishing(tmp_path / "final", keep=keep) as mine:
        (mine / "mine").touch()
        with publishing(tmp_path / "final", keep=keep) as theirs:
            (theirs / "theirs").touch()
    assert names(tmp_path) == ["final"]
    assert names(tmp_path / "final") == [left]


def test_links_share_the_files_and_a_discarded_folder_is_gone(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "file").write_text("content")
    copy_by_links(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "deep" / "file").samefile(tmp_path / "a" / "deep" / "file")
    discard(tmp_path / "a")
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b" / "deep" / "file").read_text() == "content"
