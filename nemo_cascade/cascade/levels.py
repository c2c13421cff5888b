"""The levels that a cascade's gates test at, so that the error rates hold for the cascade as a whole.

`gate.alpha` bounds, for the whole cascade, the chance that some gate breaks a promise to hold that was kept, and that
some gate finds an improvement that isn't there. It is spent in equal parts on the gates that the plan has (Bonferroni:
whatever the gates have to do with one another, and a stage's part doesn't depend on what the gates before it decided).
Within a gate the domains share their part by Holm's rule (Scandinavian Journal of Statistics 6, 1979), which holds for
any dependence between domains and is never weaker than equal parts. The two kinds of promises are two families: a
finding of one is no excuse for one of the other.

Where the gate, or `select`, may choose among several models of a stage, each is another chance to look improved,
so that the level of improvements is divided by their number; to look broken costs a model its place and needs no such
division.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_cascade.config.gate import GateConfig
from nemo_cascade.config.schema import RunConfig


def stage_gate(config: RunConfig, stage: str) -> GateConfig:
    """Return the run's gate with the stage's own changes."""
    return config.stages[stage].gate.applied_to(config.gate)


def with_gate(config: RunConfig, stage: str, **changes: Any) -> RunConfig:
    """Return the configuration with other values in one stage's gate."""
    rules = config.stages[stage]
    return replace(config, stages={**config.stages, stage: replace(rules, gate=replace(rules.gate, **changes))})


def gate_level(config: RunConfig, stage: str) -> float:
    """Return a gate's part of `gate.alpha`: an equal one for every stage that promises anything, reward models too."""
    promising = sum(rules.promises() for rules in config.stages.values())
    return stage_gate(config, stage).alpha / max(1, promising)


def models_to_choose_from(config: RunConfig, stage: str) -> int:
    """Return of how many models of a stage one becomes its result, at most: those that might look improved."""
    rules, gate = config.stages[stage], stage_gate(config, stage)
    chosen = rules.selection_prompts() is not None
    trained = rules.trained()
    kept = 1 if trained is None else trained.keep_checkpoints + (trained.keep_best is not None)
    checkpoints = kept if chosen or gate.on_regression in ("recover", "checkpoint") else 1
    return checkpoints + (len(gate.merge_ratios) if gate.on_regression in ("recover", "merge") else 0)


def holm_levels(p: Mapping[str, float], level: float) -> dict[str, float]:
    """Return for each p-value of a family the level that it is compared with: p < level is a finding, by Holm's rule.

    With m hypotheses of which r others are found, that is level / (m - r): what the next one has to stay below.
    """
    found: set[str] = set()
    for name in sorted(p, key=lambda name: p[name]):
        if p[name] >= level / (len(p) - len(found)):
            break
        found.add(name)
    return {name: level / (len(p) - len(found - {name})) for name in p}
