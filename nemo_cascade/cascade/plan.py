"""The typed list of stages that a configuration means, before anything runs."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_cascade.cascade.folder import STAGE_NAME, RunFolder
from nemo_cascade.cascade.levels import stage_gate
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START, StageBase
from nemo_cascade.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of the cascade.

    Attributes:
        index: place in the cascade, from 1.
        name: its key in the configuration.
        folder: where it writes, `<run>/stages/03-math_rl`.
        parent: name of the stage (or `start`) that it starts from by plan; a gate that rolls back changes that.
        stage: its configuration.
    """

    index: int
    name: str
    folder: Path
    parent: str
    stage: StageBase

    @property
    def kind(self) -> str:
        """Stage kind."""
        return self.stage.kind

    @property
    def moves_policy(self) -> bool:
        """Whether the next stage starts from this one's weights; a reward model stands beside that line."""
        return self.stage.moves_policy


def plan_stages(config: RunConfig, folder: RunFolder) -> list[PlannedStage]:
    """Lay out the cascade.

    Raises:
        ConfigError: all problems at once: no stages, names that can't be folders, promises about domains without a
            suite.
    """
    problems: list[str] = []
    planned: list[PlannedStage] = []
    if not config.stages:
        problems.append("the cascade has no stages; mend: add at least one under `stages`")
    line, policies = START, [START]
    suites = dict(config.evaluation.suites)
    waiting = {domain: suite.reward_model for domain, suite in suites.items() if suite.reward_model in config.stages}
    for index, (name, stage) in enumerate(config.stages.items(), 1):
        if not STAGE_NAME.fullmatch(name) or name == START:
            problems.append(
                f"a stage's name is a folder's; got: stages.{name}; allowed: letters, digits, `_`, `-`, `.`, not "
                f"`{START}`; mend: give it another name"
            )
        problems += _promise_problems(name, stage, set(suites) - set(waiting))
        waiting = {domain: reward_model for domain, reward_model in waiting.items() if reward_model != name}
        gate = stage_gate(config, name)
        if gate.unacceptable_fall is not None and gate.unacceptable_fall <= gate.tolerance:
            problems.append(
                f"stages.{name}: a fall that its gate tolerates is called unacceptable; got: "
                f"gate.unacceptable_fall={gate.unacceptable_fall:g}; allowed: above gate.tolerance={gate.tolerance:g}; "
                f"mend: gate.unacceptable_fall={2 * gate.tolerance or 0.01:g}"
            )
        parent = stage.parent or line
        if parent not in policies:
            allowed = ", ".join(policies)
            near = difflib.get_close_matches(parent, policies, n=1) or policies[-1:]
            problems.append(
                f"stages.{name}.parent: no policy by then; got: {parent}; allowed: {allowed}; "
                f"mend: stages.{name}.parent={near[0]}"
            )
        planned.append(PlannedStage(index, name, folder.stage(index, name), parent, stage))
        if planned[-1].moves_policy:
            line = name
            policies.append(name)
    if problems:
        raise ConfigError(problems)
    return planned


def _mended(name: str, promise: str, domains: Sequence[str], wrong: str, suites: set[str]) -> str:
    """Return the promise as it was probably meant: the nearest suite in place of what is none, or nothing there."""
    near = difflib.get_close_matches(wrong, suites, n=1)
    meant = dict.fromkeys(other for domain in domains for other in (near if domain == wrong else [domain]))
    return f"stages.{name}.promise.{promise}=[{','.join(meant)}]"


def _promise_problems(name: str, stage: StageBase, suites: set[str]) -> list[str]:
    problems = []
    for promise, domains in (("improve", stage.promise.improve), ("hold", stage.promise.hold)):
        for domain in domains:
            if domain not in suites and not (promise == "hold" and domain == "*"):
                problems.append(
                    f"stages.{name}.promise.{promise}: no evaluation suite for the domain by then; got: {domain}; "
                    f"allowed: {', '.join(sorted(suites))}; mend: {_mended(name, promise, domains, domain, suites)}"
                )
    for domain in sorted(set(stage.promise.improve) & set(stage.promise.hold)):
        rest = ",".join(other for other in stage.promise.hold if other != domain)
        problems.append(
            f"stages.{name}.promise: a domain is promised to improve and to hold; got: {domain}; allowed: once; "
            f"mend: stages.{name}.promise.hold=[{rest}]"
        )
    return problems
