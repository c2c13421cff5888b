"""Checkpoint folders on disk, seen from the driver: atomic, hashed, newest verified one first.

A checkpoint is written into a temporary folder by all ranks, hashed, given a manifest and renamed. What has the final
name is complete; what is complete is still hashed again before it is trusted.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from blake3 import blake3

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import CheckpointError

MANIFEST = "manifest.json"
_NAME = re.compile(r"step_(\d{6,})")
_log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one stage.

    Args:
        folder: where they live; made on first use.
        keep: newest complete checkpoints that `prune` leaves.
        every: their distance in steps. One between them was saved so that a run could pause: it doesn't count, and
            goes as soon as there is a newer one, so that a run that paused keeps the same as one that didn't.

    Attributes:
        damaged: one line for every checkpoint that `newest` refused: folder, file and what is wrong with it.
    """

    def __init__(self, folder: Path, keep: int, every: int = 1) -> None:
        if keep < 1:
            raise CheckpointError("too few checkpoints kept", value=keep, limit=">= 1", mend="raise keep_checkpoints")
        self.folder, self.keep, self.every = Path(folder), keep, every
        self.damaged: list[str] = []

    def begin(self, step: int) -> Path:
        """Return an empty temporary folder for a checkpoint; leftovers of an interrupted save are removed."""
        temporary = self._temporary(step)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        return temporary

    def commit(self, step: int) -> Path:
        """Hash, flush and publish what `begin` handed out; then prune.

        Returns:
            The final folder.

        Raises:
            CheckpointError: nothing was begun, or nothing was written.
        """
        temporary, final = self._temporary(step), self.folder / _name(step)
        files = _files(temporary) if temporary.is_dir() else []
        if not files:
            raise CheckpointError("nothing to commit", value=temporary, mend="begin() and write the checkpoint first")
        entries = {}
        for path in files:
            _fsync(path)
            entries[path.relative_to(temporary).as_posix()] = {"blake3": _hash(path), "bytes": path.stat().st_size}
        manifest = {"step": step, "files": entries}
        body = {**manifest, "blake3": _digest(manifest)}
        (temporary / MANIFEST).write_text(json.dumps(body, indent=1, sort_keys=True), encoding="utf-8")
        _fsync(temporary / MANIFEST)
        for folder in {path.parent for path in files} | {temporary}:
            _fsync(folder)
        if final.exists():  # an earlier, refused attempt at the same step
            stale = self.folder / f".stale-{final.name}"
            shutil.rmtree(stale, ignore_errors=True)
            final.rename(stale)
            temporary.rename(final)
            shutil.rmtree(stale)
        else:
            temporary.rename(final)
        _fsync(self.folder)
        self.prune()
        return final

    def newest(self) -> tuple[int, Path] | None:
        """Return step and folder of the newest checkpoint whose every byte is as it was written, or None."""
        self.damaged.clear()
        for step, folder in reversed(self._complete()):
            fault = verify(folder)
            if fault is None:
                return step, folder
            self.damaged.append(f"{folder.name}/{fault}")
            _log.warning("checkpoint refused: %s/%s", folder.name, fault)
        return None

    def prune(self) -> None:
        """Remove all but the newest `keep` checkpoints, and folders of interrupted saves."""
        complete = self._complete()
        counted = [entry for entry in complete if entry[0] % self.every == 0 or entry == complete[-1]]
        kept = counted[-self.keep :]
        for _, folder in (entry for entry in complete if entry not in kept):
            # Renamed first: a half-removed checkpoint must not look like a complete one.
            doomed = self.folder / f".stale-{folder.name}"
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
        for leftover in self.folder.glob(".stale-*"):
            shutil.rmtree(leftover)

    def _temporary(self, step: int) -> Path:
        return self.folder / f".saving-{_name(step)}"

    def _complete(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        found = [(match, path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return sorted((int(match[1]), path) for match, path in found if path.is_dir())


def verify(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder (`file: reason`), or None if every byte is as written."""
    try:
        manifest = read_json_object(folder / MANIFEST, CheckpointError)
    except CheckpointError as error:
        return f"{MANIFEST}: {error.what}"
    digest = manifest.pop("blake3", None)
    if digest != _digest(manifest):
        return f"{MANIFEST}: altered"
    # From here on it is as it was written, by this class.
    if folder.name != _name(manifest["step"]):
        return f"{MANIFEST}: it is the checkpoint of step {manifest['step']}, copied or renamed"
    entries = manifest["files"]
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            return f"{name}: missing"
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{name}: {size} bytes, written were {entry['bytes']}"
        if _hash(path) != entry["blake3"]:
            return f"{name}: altered (blake3 differs)"
    return None


def _name(step: int) -> str:
    return f"step_{step:06d}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _hash(path: Path) -> str:
    return str(blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest())


def _digest(manifest: dict[str, Any]) -> str:
    return str(blake3(json.dumps(manifest, sort_keys=True).encode()).hexdigest())


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
