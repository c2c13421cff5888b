"""Where everything of a run lies on disk, and whose run it is.

runs/<name>/
    config.yaml  provenance.yaml  ledger.jsonl  report.html  scores.json
    stages/00-start/                  the model that the cascade starts from: scores.json hf/
    stages/03-math_rl/
        metrics.jsonl  rollouts/step_000001.jsonl.gz  checkpoints/step_000020/  scores.json  gate.json  hf/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from nemo_cascade.cascade.hashes import hash_json
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.telemetry.jsonl import write_atomically

START = "start"
STAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STAGE_FOLDER = re.compile(r"(\d{2,})-([A-Za-z0-9_.-]+)")
# What may change between two visits to a folder without making it another run.
_FREE_KEYS = ("resume", "logging")


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
    def gate(self) -> Path:
        """The gate's decision."""
        return self.path / "gate.json"

    @property
    def hf(self) -> Path:
        """The stage's model as an HF folder."""
        return self.path / "hf"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder. Paths only, until `open` claims it for a configuration.

    Attributes:
        path: the folder.
        changes: how the configuration differs from the folder's before a fork, `key: old -> new` each.
    """

    path: Path
    changes: tuple[str, ...] = ()

    @classmethod
    def open(cls, config: RunConfig, provenance: Mapping[str, Any]) -> RunFolder:
        """Make the folder, or come back to it, and write down the configuration.

        Raises:
            RunFolderError: the folder belongs to another configuration (lists every difference) and `resume` isn't
                `fork`, or it exists and `resume` is `never`.
        """
        folder = cls(Path(config.runs_dir) / config.name)
        new = asdict(config)
        if folder.config.is_file():
            if config.resume == "never":
                raise RunFolderError(
                    "the run folder exists and resume=never", value=folder.path, mend="another name, or resume=auto"
                )
            changes = config_differences(folder.stored_config(), new)
            if changes and config.resume != "fork":
                raise RunFolderError(
                    "the run folder belongs to another configuration:" + "".join(f"\n  {line}" for line in changes),
                    value=folder.path,
                    mend="another name, the old configuration, or resume=fork to go on with the new one",
                )
            folder = cls(folder.path, changes)
        folder.stages_root.mkdir(parents=True, exist_ok=True)
        _write_yaml(folder.config, new)
        _write_yaml(folder.provenance, provenance)
        return folder

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

    @property
    def tokenised(self) -> Path:
        """Where tokenised data is kept; shared by all runs with the same data_dir."""
        return Path(self.stored_config()["data_dir"]) / "tokenised"

    @property
    def config_hash(self) -> str:
        """Content hash of what the configuration trains (resume and logging left out)."""
        stored = self.stored_config()
        # Sorted keys must not hide the order of the stages.
        content = {key: value for key, value in stored.items() if key not in _FREE_KEYS}
        return hash_json({**content, "stages": [[name, stage] for name, stage in stored["stages"].items()]})

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
        """Read config.yaml.

        Raises:
            RunFolderError: it is missing or isn't a mapping.
        """
        try:
            stored = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise RunFolderError("can't read the run's configuration", value=str(error)) from error
        if not isinstance(stored, dict):
            raise RunFolderError("the run's configuration isn't a mapping", value=self.config)
        return stored

    def collect_scores(self) -> dict[str, dict[str, Any]]:
        """Write scores.json, {stage: {domain: {score, n, stderr}}}, from the stages' scores, and return it."""
        matrix = {s.name: Scores.load(s.scores).summary() for s in self.stages() if s.scores.is_file()}
        write_atomically(self.scores, (json.dumps(matrix, indent=1, allow_nan=False) + "\n").encode())
        return matrix


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `key: old -> new` for every value that differs and matters, and for a changed order of stages."""
    before = {key: value for key, value in old.items() if key not in _FREE_KEYS}
    after = {key: value for key, value in new.items() if key not in _FREE_KEYS}
    lines = list(value_differences(before, after))
    orders = [list(side.get("stages", {})) for side in (before, after)]
    if set(orders[0]) == set(orders[1]) and orders[0] != orders[1]:
        lines.append(f"order of stages: {' > '.join(orders[0])} -> {' > '.join(orders[1])}")
    return tuple(lines)


def value_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `key: old -> new` for every leaf that differs; an absent one is shown as (none)."""
    for key in [*old, *(key for key in new if key not in old)]:
        a, b = old.get(key, "(none)"), new.get(key, "(none)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from value_differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}: {a} -> {b}"


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120)
    write_atomically(path, text.encode())


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf; lists and empty mappings are leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
