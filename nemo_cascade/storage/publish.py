"""Publish a folder: complete under its name, or not at all.

It is filled beside its final place under a name that ends in `.unfinished`, flushed to disk and renamed. The process
that fills it holds a lock on it, so what a killed one left behind is known by not being locked; it goes when the next
folder is published beside it. A folder that is removed gets such a name first: half of it never looks like a whole.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nemo_cascade.storage.atomic import flush

UNFINISHED = ".unfinished"


@contextlib.contextmanager
def publishing(target: Path, *, keep: bool = False, alone: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, on the target's disk; leaving without an error publishes it.

    Args:
        target: what it becomes.
        keep: whether a folder that has the name by then stays: another process made the same. Else it is replaced.
        alone: nobody else ever publishes beside the target; says so where a file system knows no locks.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target.parent, alone=alone)
    lock = None
    while lock is None:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=UNFINISHED, dir=target.parent))
        lock = _locked(scratch)
    scratch.chmod(0o755)  # mkdtemp closes it to others; ranks may run as another user
    try:
        yield scratch
        publish(scratch, target, keep=keep)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)


def publish(scratch: Path, target: Path, *, keep: bool = False) -> None:
    """Flush a finished folder to disk and give it its name; as `publishing`, for one that was filled over several runs.

    Links in it are its content; what they point to is not.
    """
    for folder, _, files in os.walk(scratch, topdown=False):
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                flush(Path(folder, name))
        flush(Path(folder))
    replaced = _put_aside(target) if target.exists() and not keep else None
    try:
        scratch.rename(target)
    except OSError:
        if not (keep and target.is_dir()):
            raise
    flush(target.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder, out of sight in one step."""
    shutil.rmtree(_put_aside(folder), ignore_errors=True)


def remove_unfinished(folder: Path, *, alone: bool = False) -> None:
    """Remove what killed processes left half-written or half-removed in a folder; what others are writing stays."""
    for path in folder.glob(f".*{UNFINISHED}"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # published or removed meanwhile
        try:
            if not alone:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody writes in it, or this file system has no locks
        finally:
            os.close(lock)


def copy_by_links(source: Path, target: Path) -> None:
    """Give the files of a folder second names in another; copies where the file system has no hard links."""
    shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _put_aside(folder: Path) -> Path:
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=UNFINISHED, dir=folder.parent))
    return folder.rename(aside)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _locked(scratch: Path) -> int | None:
    """Lock a new folder; None if it was taken for a leftover and removed before that."""
    try:
        lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    # On a file system without locks nobody else gets one either, so nobody takes it for a leftover.
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_SH)
    if scratch.exists():
        return lock
    os.close(lock)
    return None
