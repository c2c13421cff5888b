"""Checkpoint folders on disk, seen from the driver: atomic, hashed, newest verified one first.

A checkpoint is written into a temporary folder by all ranks, hashed, given a manifest and renamed. What has the final
name is complete; what is complete is still hashed again before it is trusted.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import CheckpointError
from nemo_cascade.storage.hashes import hash_recipe
from nemo_cascade.storage.manifest import describe, find_fault
from nemo_cascade.storage.publish import discard, publishing, remove_unfinished

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
        best: step of one that `prune` leaves, too; None: there is none such.
        damaged: one line for every checkpoint that `newest` refused: folder, file and what is wrong with it.
    """

    def __init__(self, folder: Path, keep: int, every: int = 1) -> None:
        if keep < 1:
            raise CheckpointError("too few checkpoints kept", value=keep, limit=">= 1", mend="raise keep_checkpoints")
        self.folder, self.keep, self.every = Path(folder), keep, every
        self.damaged: list[str] = []
        self.best: int | None = None

    @contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        """Give an empty folder for a checkpoint; leaving without an error hashes and publishes it, then prunes.

        Raises:
            CheckpointError: nothing was written.
        """
        with publishing(self.folder / _name(step), alone=True) as folder:
            yield folder
            manifest = {"step": step, "files": describe(folder)}
            if not manifest["files"]:
                raise CheckpointError("an empty checkpoint", value=folder, mend="write into the folder that is given")
            body = {**manifest, "blake3": hash_recipe(manifest)}
            (folder / MANIFEST).write_text(json.dumps(body, indent=1, sort_keys=True), encoding="utf-8")
        self.prune()

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
        """Remove all but the newest `keep` checkpoints and the best, and folders of interrupted saves."""
        complete = self._complete()
        counted = [entry for entry in complete if entry[0] % self.every == 0 or entry == complete[-1]]
        kept = [*counted[-self.keep :], *(entry for entry in counted if entry[0] == self.best)]
        for _, folder in (entry for entry in complete if entry not in kept):
            discard(folder)
        remove_unfinished(self.folder, alone=True)

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
    if digest != hash_recipe(manifest):
        return f"{MANIFEST}: altered"
    # From here on it is as it was written, by this class.
    if folder.name != _name(manifest["step"]):
        return f"{MANIFEST}: it is the checkpoint of step {manifest['step']}, copied or renamed"
    fault = find_fault(folder, manifest["files"])
    return str(fault) if fault else None


def _name(step: int) -> str:
    return f"step_{step:06d}"
