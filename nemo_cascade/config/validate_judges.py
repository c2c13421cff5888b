"""Checks of who judges: every verifier and every reward model that a run names must be there when it is asked."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from nemo_cascade.config import host
from nemo_cascade.config.plugins import is_plugin
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.prompts import GENRM, PREFERENCE
from nemo_cascade.config.verifiers import SETTINGS, has_settings, plugin_settings, settings_of
from nemo_cascade.errors import CascadeError

Problems = Iterator[CascadeError]


def judge_violations(config: RunConfig, known: Collection[str]) -> Problems:
    """Yield everything that keeps a judge from judging.

    Args:
        config: the composed run.
        known: names of the verifiers in the reward registry.
    """
    yield from _verifiers(config, known)
    yield from _deadlines(config)
    yield from _preference(config)
    yield from _genrm(config)
    yield from _scorer_room(config)


def verifiers_of(config: RunConfig) -> dict[str, str]:
    """Return every verifier that a run names, by the key that names it; parts of composed ones, too."""
    places = _places(config)
    named = {f"{place}.verifier": verifier for place, (verifier, _) in places.items()}
    for place, (_, reward) in places.items():
        for kind in ("gates", "terms"):
            parts = reward.get(kind)
            for number, part in enumerate(parts if isinstance(parts, list) else ()):
                named[f"{place}.reward.{kind}.{number}.verifier"] = str(part["verifier"])
    return named


def _places(config: RunConfig) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return verifier and settings of every suite and every set of prompts, by their keys."""
    places = {f"evaluation.suites.{name}": (s.verifier, s.reward) for name, s in config.evaluation.suites.items()}
    for name, stage in config.stages.items():
        places |= {f"stages.{name}.{key}": (rules.verifier, rules.reward) for key, rules in stage.tasks().items()}
    return places


def _verifiers(config: RunConfig, known: Collection[str]) -> Problems:
    yield from _unknown(verifiers_of(config), [*known, PREFERENCE, GENRM])
    timed = {*known, *SETTINGS} - {PREFERENCE, GENRM}
    yield from _unknown({f"reward.deadlines.{name}": name for name in config.reward.deadlines}, sorted(timed))


def _unknown(used: Mapping[str, str], known: Sequence[str]) -> Problems:
    for key, name in used.items():
        if is_plugin(name):
            try:
                plugin_settings(name)
            except CascadeError as error:
                yield CascadeError(f"{key}: {error.what}", value=error.value, limit=error.limit, mend=error.mend)
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {near[0]}?" if near else None
            yield CascadeError("unknown verifier", value=f"{key}={name}", limit=", ".join(known), mend=mend)


def _deadlines(config: RunConfig) -> Problems:
    """A verifier's own limits must fit into the time that its verdicts have."""
    for place, (verifier, reward) in _places(config).items():
        if not has_settings(verifier):
            continue
        needs_s = settings_of(verifier, reward).needs_s
        deadline_s = config.reward.deadlines.get(verifier, config.reward.deadline_s)
        if needs_s >= deadline_s:
            yield CascadeError(
                "a verifier's own limits don't fit into its deadline",
                value=f"{place}.reward of {verifier}: {needs_s:g} s",
                limit=f"under reward.deadlines.{verifier}={deadline_s:g}",
                mend=f"raise reward.deadlines.{verifier}, or lower the limits",
            )


def _preference(config: RunConfig) -> Problems:
    """Whoever judges by preference names a reward model that is there by then; nobody else names one."""
    stages = list(config.stages)
    places = [
        (f"evaluation.suites.{name}", suite.verifier == PREFERENCE, suite.reward_model, stages)
        for name, suite in config.evaluation.suites.items()
    ]
    places += [
        (f"stages.{name}", *stage.preference_model(), stages[: stages.index(name)])
        for name, stage in config.stages.items()
    ]
    for prefix, asked, reference, before in places:
        value = f"{prefix}.reward_model={reference}"
        trained = [name for name in before if not config.stages[name].moves_policy]
        if asked and reference is None:
            yield CascadeError("preference needs a reward model", value=value, mend="name its stage or its HF folder")
        elif not asked and reference is not None:
            yield CascadeError("no reward model is asked there", value=value, mend=f"{prefix}.reward_model=null")
        elif reference in config.stages and reference not in trained:
            limit = f"reward models by then: {', '.join(trained) or 'none'}"
            yield CascadeError("that stage is no reward model by then", value=value, limit=limit, mend="name another")


def _genrm(config: RunConfig) -> Problems:
    """Who compares responses needs a server, and more than one response to compare."""
    used = {
        f"stages.{name}.{key}.verifier": stage.responses_per_prompt()
        for name, stage in config.stages.items()
        for key, rules in stage.tasks().items()
        if rules.verifier == GENRM
    }
    used |= {
        f"evaluation.suites.{name}.verifier": suite.samples_per_prompt
        for name, suite in config.evaluation.suites.items()
        if suite.verifier == GENRM
    }
    for key, size in used.items():
        if size < 2:
            mend = "raise samples_per_prompt"
            yield CascadeError("genrm compares responses to one prompt", value=f"{key}: {size}", limit="2", mend=mend)
    if used and not (config.reward.genrm.url and config.reward.genrm.model):
        yield CascadeError(
            "genrm needs a judge's server", value=next(iter(used)), mend="set reward.genrm.url and .model"
        )


def _scorer_room(config: RunConfig) -> Problems:
    asked = [stage.preference_model()[1] for stage in config.stages.values()]
    asked += [suite.reward_model for suite in config.evaluation.suites.values()]
    if not any(asked) or host.resolved_device(config.cluster) == "cpu":
        return
    have = config.cluster.num_nodes * config.cluster.gpus_per_node
    need = config.scorer.tensor_parallel_size * config.scorer.num_replicas
    if need > have:
        value = f"scorer.num_replicas x scorer.tensor_parallel_size = {need}"
        yield CascadeError("the reward model needs more GPUs than there are", value=value, limit=have, mend="fewer")
