"""Every hyperparameter of a recipe beside what the paper gives for it: where, and why it differs where it does.

A paper's values are data, one file a paper, named as the folder of its recipes (`conf/cascade/PAPER/RECIPE.yaml`); the
recipe's are those of the composed run, overrides included.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from nemo_cascade.config.base import block
from nemo_cascade.config.reading import libyaml
from nemo_cascade.config.reading.origins import COMMAND_LINE, flatten
from nemo_cascade.config.schema import RunConfig

RUN = "run"
"""Stands for the keys outside of the stages, among a recipe's stages."""

NOT_GIVEN = "not given"

# How a stage is run and judged, and from which files; not what it computes.
_OPERATION = re.compile(
    r"kind|objective|checkpoint_every|keep_(checkpoints|best)|measure(\..*)?|rollouts_to_keep"
    r"|optimizer\.max_skipped_steps|(promise|gate)(\..*)?"
    r"|(sampled\.)?tasks\.\w+\.(path|domain)|data\.(path|holdout_path|holdout_split|workers)"
    r"|data\.sources\.\d+\.(?!repeat$).*"
    r"|(data|(sampled\.)?tasks\.\w+)\.(subset|split|revision|schema|columns.*)"
)


@block
class PaperValue:
    """What the paper gives for one key."""

    paper: Any
    """The value, in the configuration's terms; null: none is given."""
    where: str
    """Table or section."""
    ours: Any = None
    """The recipe's value, where it has another."""
    why: str | None = None
    """Reason for having another."""
    note: str | None = None
    """What else there is to say, as that the paper contradicts itself."""


@block
class Unkeyed:
    """A value of the paper that no key of the configuration holds."""

    what: str
    """Its name."""
    paper: str
    """The value."""
    where: str
    """Table or section."""
    why: str
    """Reason for there being no key."""


@block
class PaperStage:
    """What the paper gives for a stage."""

    family: str | None = None
    """Family whose values it shares."""
    values: dict[str, PaperValue] = field(default_factory=dict)
    """Key within the stage -> value."""
    unkeyed: list[Unkeyed] = field(default_factory=list)
    """Values without a key."""


@block
class Paper:
    """What the paper gives for the recipes."""

    source: str
    """Where it is."""
    not_given: dict[str, dict[str, str]]
    """Kind of stage (or all) -> key that the paper is silent about -> where the recipe's value comes from."""
    families: dict[str, PaperStage]
    """What stages share."""
    recipes: dict[str, dict[str, PaperStage]]
    """Recipe -> stage (or `run`) -> what the paper gives for it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One hyperparameter of a stage.

    Attributes:
        stage: its stage, or `run`.
        key: path within the stage, or within the run.
        ours: the run's value.
        paper: the paper's; `not given` where it is silent.
        where: table or section.
        differs: the two are not the same.
        why: reason of a difference, or what else there is to say; None if nobody gave the reason that is due.
    """

    stage: str
    key: str
    ours: str
    paper: str
    where: str
    differs: bool
    why: str | None


@cache
def read_papers() -> Mapping[str, Paper]:
    """Return every paper's values, by name."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    papers = {file.stem: libyaml.parsed(file.read_text(encoding="utf-8")) for file in files}
    return {name: TypeAdapter(Paper).validate_python(data) for name, data in papers.items()}


def recipes() -> dict[str, Paper]:
    """Return the papers' recipes, `PAPER/RECIPE` as `cascade` names them, each with its paper."""
    return {f"{name}/{recipe}": paper for name, paper in read_papers().items() for recipe in paper.recipes}


def compare(config: RunConfig, recipe: str, origins: Mapping[str, str]) -> list[Row]:
    """Set every hyperparameter of a run beside the paper's.

    Args:
        config: the composed run.
        recipe: the cascade that it was composed from, one of `recipes`.
        origins: where each value came from; told where a value is neither the paper's nor the recipe's.
    """
    paper, rows = recipes()[recipe], []
    for name, given in paper_stages(config, recipe).items():
        prefix = "" if name == RUN else f"stages.{name}."
        stage = config if name == RUN else config.stages[name]
        values = flatten(asdict(stage))  # type: ignore[call-overload]
        silent = {} if name == RUN else paper.not_given["all"] | paper.not_given[config.stages[name].kind]
        keys = given.values if name == RUN else [key for key in values if not _OPERATION.fullmatch(key)]
        for key in keys:
            value, entry, origin = values.get(key), given.values.get(key), origins.get(prefix + key, "")
            if entry is None:
                why = next((why for pattern, why in silent.items() if fnmatchcase(key, pattern)), None)
                why = f"set by {origin}" if origin.startswith(COMMAND_LINE) else why
                rows.append(Row(name, key, _text(value), NOT_GIVEN, "", False, why))
            elif value == entry.paper:
                rows.append(Row(name, key, _text(value), _text(entry.paper), entry.where, False, entry.note or ""))
            else:
                known = value == entry.ours
                why = entry.why if known else f"set by {origin}" if origin else None
                stated = NOT_GIVEN if entry.paper is None else _text(entry.paper)
                rows.append(Row(name, key, _text(value), stated, entry.where, True, why))
        rows += [Row(name, u.what, "-", u.paper, u.where, True, u.why) for u in given.unkeyed]
    return rows


def paper_stages(config: RunConfig, recipe: str) -> dict[str, PaperStage]:
    """Return what the paper gives for the run and for each of its stages, families' values filled in.

    A stage that the recipe doesn't have (the run's own) has nothing given.
    """
    paper, stages = recipes()[recipe], {}
    for name in (RUN, *config.stages):
        own = paper.recipes[recipe.rpartition("/")[2]].get(name, PaperStage())
        family = paper.families[own.family] if own.family else PaperStage()
        stages[name] = PaperStage(values=family.values | own.values, unkeyed=[*family.unkeyed, *own.unkeyed])
    return stages


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
