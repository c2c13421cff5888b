"""Begin a run folder with the finished stages of another run: nothing of them is computed again.

The files are the same ones under second names (hard links; copies on another file system), so the first run may be
removed. The new ledger begins with where they come from: the run, the hash of its last record, and for each stage the
records that say what was made and decided, with the hashes of the weights, which are checked.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nemo_cascade.cascade.decision import Decision
from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.ledger import Ledger, Record, read_ledger
from nemo_cascade.config.reading import libyaml
from nemo_cascade.config.reading.provenance import config_diff, config_hash, read_config, run_command
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START
from nemo_cascade.errors import RunFolderError
from nemo_cascade.report.story import ways_on_text
from nemo_cascade.storage.hashes import hash_folder
from nemo_cascade.storage.publish import copy_by_links, publishing

# What the runner looks for to know that a stage is done, and what tells its story.
_STORY = ("stage_started", "stage_ended", "trained", "selected", "scored", "decided", "ruled")
_ITS_OWN = re.compile(r"(name|resume)=")


def inherited_overrides(origin: Path) -> list[str]:
    """Return the overrides that a run was started with, but for its name.

    Raises:
        RunFolderError: it has no record of them.
    """
    try:
        record = libyaml.parsed((origin / "provenance.yaml").read_text(encoding="utf-8"))
        return [text for text in record["overrides"] if not _ITS_OWN.match(text)]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        mend = "name a folder that `nemo-cascade run` made"
        raise RunFolderError("this folder doesn't say how its run was started", value=repr(error), mend=mend) from None


def fork_run(origin: Path, at: str, config: RunConfig, provenance: dict[str, Any]) -> RunFolder:
    """Make the run folder of `config`, holding all stages of the run `origin` before the stage `at`.

    It appears complete under its name, or not at all; one that this very fork made before is left as it is.

    Args:
        origin: a run folder; it may belong to a run that goes on.
        at: the first stage that is made anew.
        config: the new run; it may differ in the stages from `at` on, their order and number included.
        provenance: where its values come from.

    Raises:
        RunFolderError: there is no such stage, one before it has no decision or other weights than were recorded,
            something else differs, or the folder is another run's.
    """
    target, source = RunFolder(Path(config.runs_dir) / config.name), RunFolder(origin)
    shared = check_fork_of(origin, at, config)
    if target.path.exists():
        return target
    old, records = read_config(origin), read_ledger(source.ledger)
    with publishing(target.path, keep=True) as folder:
        scratch = RunFolder(folder)
        for stage in source.stages():
            if stage.name in (START, *shared):
                copy_by_links(stage.path, scratch.stage(stage.index, stage.name))
        ledger = Ledger(scratch.ledger)
        ledger.append(
            "forked_from",
            run=source.name,
            at=at,
            ledger=records[-1].hash,
            config=config_hash(old),
            stages=shared,
            changes=config_diff(old, config),
        )
        for record in records:
            if record.event in _STORY and record.stage in (START, *shared):
                ledger.append(record.event, record.stage, **{**record.details, "inherited": record.hash})
        scratch.collect_scores()
        scratch.write_record(config, provenance)
    return target


def check_fork_of(origin: Path, at: str, config: RunConfig) -> list[str]:
    """Check everything that a fork needs, writing nothing; return the stages that it takes over.

    Raises:
        RunFolderError: as `fork_run`.
    """
    target, source = RunFolder(Path(config.runs_dir) / config.name), RunFolder(origin)
    old = read_config(origin)
    check_fork(old, config, at)
    shared = list(old.stages)[: list(old.stages).index(at)]
    if target.path.exists():
        _check_own(target, config)
    else:
        _check_done(source, read_ledger(source.ledger), shared)
    return shared


def check_fork(old: RunConfig, new: RunConfig, at: str) -> None:
    """Refuse a run that can't take over the stages before `at` of another.

    Raises:
        RunFolderError: there is no such stage, or the two differ in what came before it.
    """
    if at not in old.stages:
        raise RunFolderError(
            "the run has no such stage to fork at",
            value=at,
            limit=", ".join(old.stages),
            mend=f"--at {next(iter(difflib.get_close_matches(at, old.stages, n=1)), [*old.stages][-1])}",
        )
    shared = list(old.stages)[: list(old.stages).index(at)]
    if list(new.stages)[: len(shared)] != shared:
        raise RunFolderError(
            f"the stages before {at} must be those of the run that is forked",
            value=", ".join(new.stages),
            limit=f"{', '.join(shared)}, then any",
            mend="keep their names and order, or fork at an earlier stage",
        )
    late = tuple(f"stages.{name}." for name in [*old.stages, *new.stages] if name not in shared)
    earlier = [line for line in config_diff(old, new) if not line.startswith((*late, "stages:"))]
    if earlier:
        raise RunFolderError(
            f"a fork at {at} can't change what came before it:" + "".join(f"\n    {line}" for line in earlier) + "\n ",
            limit=f"stages from {at} on",
            mend="fork at an earlier stage, or start a new run",
        )


def _check_own(target: RunFolder, new: RunConfig) -> None:
    first = next(iter(read_ledger(target.ledger)), None)
    if first is None or first.event != "forked_from" or config_diff(read_config(target.path), new):
        raise RunFolderError("the run folder is another run's", value=target.path, mend="name=ANOTHER")


def _check_done(source: RunFolder, records: Sequence[Record], shared: Sequence[str]) -> None:
    folders = {stage.name: stage for stage in source.stages()}
    for name in shared:
        events = {record.event: record for record in records if record.stage == name}
        if name not in folders or "decided" not in events:
            mend = f"let the run finish it: {run_command(source.path)}"
            raise RunFolderError("a stage before the fork has no decision yet", value=name, mend=mend)
        outcome = Decision.load(folders[name].gate).outcome
        if outcome == "hold":
            ways = ways_on_text(source, name)
            raise RunFolderError("the gate holds the run after a stage before the fork", value=name, mend=ways)
        if outcome == "skip":
            continue
        weights = events["decided"].details.get("weights", events["trained"].details["weights"])
        if hash_folder(folders[name].hf) != weights:
            raise RunFolderError(
                "a stage's weights aren't those that its ledger records",
                value=folders[name].hf,
                mend="restore the folder, or fork at an earlier stage",
            )
