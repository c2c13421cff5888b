"""Experiments: a question, and the runs that answer it when they are compared; `conf/experiment/NAME.yaml`.

question: what the comparison is to tell
seeds: [0, 1, 2]                                 # every arm is run with each; left out: once, with the recipe's own
arms:
  first:
    overrides: [cascade=nano]                    # a whole run
  second:
    fork: {of: first, at: rlhf}                  # the same run up to a stage, other settings from there on
    overrides: [cascade=nano, stages.rlhf.steps=30]
"""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

import yaml
from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from nemo_cascade.config.base import block
from nemo_cascade.config.reading import libyaml
from nemo_cascade.config.reading.compose import EXPERIMENTS
from nemo_cascade.config.reading.shipped import SHIPPED_CONF
from nemo_cascade.config.schema import RunConfig
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
    seeds: list[NonNegativeInt] = field(default_factory=list)
    """Seeds that every arm is run with; empty: the one that its own configuration has."""


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
        found = TypeAdapter(Experiment).validate_python(libyaml.parsed(path.read_text(encoding="utf-8")))
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


def chosen_seeds(experiment: Experiment, asked: Sequence[int] | None, common: Sequence[str]) -> list[int | None]:
    """Return the seeds to run: those of the command line, else the experiment's; None: the configuration's own.

    Raises:
        ConfigError: a seed is given twice, or also by an override.
    """
    told = [text for text in common if text.startswith("seed=")]
    own = [
        f"arms.{arm}: {text}" for arm, entry in experiment.arms.items() for text in entry.overrides if "seed=" in text
    ]
    seeds = list(asked) if asked is not None else [] if told else list(experiment.seeds)
    if not seeds:
        return [None]
    problems = [f"{text} and seeds {seeds}: the seed is told twice" for text in (told + own)]
    problems += [f"seed {seed} is named twice" for seed in sorted({s for s in seeds if seeds.count(s) > 1})]
    if problems:
        raise ConfigError(problems)
    return list(seeds)


def seed_overrides(overrides: Sequence[str], config: RunConfig, seed: int | None) -> list[str]:
    """Return what an arm's run is told with a seed; other seeds than its own live in a folder each, data included.

    Args:
        overrides: the arm's.
        config: what they compose to.
        seed: None: its own.
    """
    if seed is None or seed == config.seed:
        return list(overrides)
    kept = [text for text in overrides if not text.startswith("runs_dir=")]
    return [*kept, f"runs_dir={config.runs_dir}/seed{seed}", f"seed={seed}"]


def arm_overrides(experiment: str, arm: str, own: Sequence[str], common: Sequence[str]) -> list[str]:
    """Return everything that an arm's run is told: its own settings, those for all arms, its name if it has none."""
    named = any(text.startswith("name=") for text in own)
    return [*own, *common, *([] if named else [f"name={Path(experiment).stem}-{arm}"])]
