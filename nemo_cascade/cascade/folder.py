"""Where everything of a run lies on disk.

runs/<name>/
    config.yaml  provenance.yaml  ledger.jsonl  report.html  scores.json  hygiene.json
    slurm/                            a submitted run's job script, its jobs and their logs
    logs/                             of the actors; under a job's number those of every node
    stages/00-start/                  the model that the cascade starts from: scores.json hf/
    stages/03-math_rl/
        metrics.jsonl  rollouts/step_000001.jsonl.gz  checkpoints/step_000020/  scores.json  gate.json  hf/
        preference.json               a reward model's, in place of rollouts/ and scores.json
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nemo_cascade.config.reading import libyaml
from nemo_cascade.config.reading.provenance import record
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START
from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.storage.atomic import write_atomically, write_json

STAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STAGE_FOLDER = re.compile(r"(\d{2,})-([A-Za-z0-9_.-]+)")


@dataclass(frozen=True, slots=True)
class StageFolder:
    """The paths of one stage's folder.

    Attributes:
        path: the folder.
        index: the stage's place in the cascade; 0 for the start model.
        name: the stage's name; `start` for the start model.
    """

    path: Path
    index: int
    name: str

    @property
    def metrics(self) -> Path:
        """One line per step."""
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """Sample rollouts, one file per step."""
        return self.path / "rollouts"

    @property
    def scores(self) -> Path:
        """Scores of the stage's model on all suites."""
        return self.path / "scores.json"

    @property
    def preference(self) -> Path:
        """A reward model's accuracy and calibration on its hold-out pairs."""
        return self.path / "preference.json"

    @property
    def gate(self) -> Path:
        """The gate's decision."""
        return self.path / "gate.json"

    @property
    def hf(self) -> Path:
        """The stage's model as an HF folder."""
        return self.path / "hf"


def names_apart(folders: Sequence[Path]) -> list[str]:
    """Return the runs' names, each with as many of the folders above it as tell all of them apart."""
    parts = [folder.absolute().parts for folder in folders]
    different = len(set(parts))
    depth = next(n for n in range(1, max(map(len, parts)) + 1) if len({part[-n:] for part in parts}) == different)
    return [str(Path(*part[-depth:])) for part in parts]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run's folder."""

    path: Path

    @classmethod
    def begun(cls, path: Path) -> RunFolder:
        """Return the folder of a run that was begun.

        Raises:
            RunFolderError: it is none.
        """
        if not (path / "config.yaml").is_file():
            mend = "name a folder that `nemo-cascade run` made"
            raise RunFolderError("this is no run folder: it has no config.yaml", value=path, mend=mend)
        return cls(path)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The composed configuration."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Where each value of the configuration came from."""
        return self.path / "provenance.yaml"

    @property
    def ledger(self) -> Path:
        """What was done."""
        return self.path / "ledger.jsonl"

    @property
    def hygiene(self) -> Path:
        """Prompts that sets were found to share."""
        return self.path / "hygiene.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def scores(self) -> Path:
        """The matrix stage x domain."""
        return self.path / "scores.json"

    @property
    def stages_root(self) -> Path:
        """Folder of the stage folders."""
        return self.path / "stages"

    @property
    def start(self) -> Path:
        """Folder of the model that the cascade starts from."""
        return self.stage(0, START)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from working in the folder, which is made if need be.

        Raises:
            RunFolderError: another process works in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(
                    "another process works in this run folder", value=self.path, mend="wait for it, or name=ANOTHER"
                ) from None
            yield

    def write_record(self, config: RunConfig, provenance: Mapping[str, Any]) -> None:
        """Write config.yaml and provenance.yaml; an existing pair is replaced, each file atomically."""
        for name, values in record(config, provenance).items():
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)
            write_atomically(self.path / name, text.encode())

    def stage(self, index: int, name: str) -> Path:
        """Folder of the stage that comes `index`th, from 1."""
        return self.stages_root / f"{index:02d}-{name}"

    def stages(self) -> list[StageFolder]:
        """Return the stage folders that exist, the start included, in the cascade's order.

        Raises:
            RunFolderError: two stages have the same number.
        """
        found = [
            StageFolder(path, int(match[1]), match[2])
            for path in (sorted(self.stages_root.iterdir()) if self.stages_root.is_dir() else [])
            if path.is_dir() and (match := _STAGE_FOLDER.fullmatch(path.name))
        ]
        if len({stage.index for stage in found}) != len(found):
            raise RunFolderError(
                f"two stage folders in {self.stages_root} have the same number",
                value=[stage.path.name for stage in found],
                mend="a fork renamed a stage: remove the folder that is no longer in the configuration",
            )
        return sorted(found, key=lambda stage: stage.index)

    def stored_config(self) -> dict[str, Any]:
        """Read config.yaml as it is, whichever version of the schema wrote it.

        Raises:
            RunFolderError: it is missing or isn't a mapping.
        """
        try:
            stored = libyaml.parsed(self.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise RunFolderError(
                "can't read the run's configuration",
                value=f"{self.config}: {error}",
                mend="restore config.yaml of the run, or run under another name",
            ) from error
        if not isinstance(stored, dict):
            raise RunFolderError(
                "the run's configuration isn't a mapping",
                value=self.config,
                mend="restore config.yaml of the run, or run under another name",
            )
        return stored

    def stored_hygiene(self) -> dict[str, Any] | None:
        """Read hygiene.json; None if there is none.

        Raises:
            RunFolderError: it is damaged.
        """
        if not self.hygiene.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(self.hygiene.read_text(encoding="utf-8"))
            return {name: found[name] for name in ("rules", "files", "pairs")}
        except (ValueError, KeyError, TypeError) as error:
            mend = "remove it: the next start of the run writes it again"
            raise RunFolderError("can't read which prompts the sets share", value=repr(error), mend=mend) from error

    def collect_scores(self) -> dict[str, dict[str, Any]]:
        """Write scores.json, {stage: {domain: summary}}, from the stages' scores, and return it."""
        matrix = {s.name: Scores.load(s.scores).summary() for s in self.stages() if s.scores.is_file()}
        write_json(self.scores, matrix)
        return matrix
