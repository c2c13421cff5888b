"""Experiments: a question, and the runs that answer it when they are compared; `conf/experiment/NAME.yaml`.

question: what the comparison is to tell
arms:
  first:
    overrides: [cascade=nano]                    # a whole run
  second:
    fork: {of: first, at: rlhf}                  # the same run up to a stage, other settings from there on
    overrides: [cascade=nano, stages.rlhf.steps=30]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from nemo_cascade.config.base import block
from nemo_cascade.config.compose import EXPERIMENTS, SHIPPED_CONF
from nemo_cascade.errors import ConfigError

FOLDER = SHIPPED_CONF / EXPERIMENTS


@block
class ForkOf:
    """Where an arm leaves another."""

    of: str
    """The other arm, an earlier one."""
    at: str
    """Its first stage that this arm makes anew."""


@block
class ArmConfig:
    """One run of an experiment."""

    overrides: list[str]
    """The run, as `nemo-cascade run` is told it."""
    fork: ForkOf | None = None
    """Which finished stages it takes over."""


@block
class Experiment:
    """A question and its runs."""

    question: str
    """What the comparison is to tell."""
    arms: dict[str, ArmConfig] = field(default_factory=dict)
    """Runs by name; all are compared with the first."""


def experiment_names() -> list[str]:
    """Return the names of the shipped experiments."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_experiment(name: str) -> Experiment:
    """Read an experiment by its name, or by the path of a file.

    Raises:
        ConfigError: there is none of that name, or the file isn't one; everything that is wrong with it.
    """
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError([f"no such experiment: {name}; allowed: {', '.join(experiment_names())}, or a .yaml file"])
    try:
        found = TypeAdapter(Experiment).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError([f"{path} is no experiment: {error}"]) from None
    problems = [] if found.arms else [f"{path} has no arms"]
    earlier: list[str] = []
    for arm, entry in found.arms.items():
        if entry.fork and entry.fork.of not in earlier:
            problems.append(f"arms.{arm}.fork.of: no earlier arm; got: {entry.fork.of}; allowed: {', '.join(earlier)}")
        earlier.append(arm)
    if problems:
        raise ConfigError(problems)
    return found


def arm_overrides(experiment: str, arm: str, own: Sequence[str], common: Sequence[str]) -> list[str]:
    """Return everything that an arm's run is told: its own settings, those for all arms, its name if it has none."""
    named = any(text.startswith("name=") for text in own)
    return [*own, *common, *([] if named else [f"name={Path(experiment).stem}-{arm}"])]
