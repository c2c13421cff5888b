"""Checks of who judges: every verifier and every reward model that a run names must be there when it is asked."""

import difflib
from collections.abc import Iterator

from nemo_cascade.config.checks import host
from nemo_cascade.config.environments import ENVIRONMENTS
from nemo_cascade.config.plugins import is_plugin, load_plugin
from nemo_cascade.config.schema import RunConfig, SuiteConfig
from nemo_cascade.config.stages.tasks import PromptsConfig
from nemo_cascade.config.verifiers.base import Settings
from nemo_cascade.config.verifiers.kinds import GENRM, PREFERENCE, SETTINGS, MixSettings
from nemo_cascade.errors import CascadeError

Problems = Iterator[CascadeError]


def judge_violations(config: RunConfig) -> Problems:
    """Yield everything that keeps a judge from judging."""
    yield from _deadlines(config)
    yield from _steps(config)
    yield from _preference(config)
    yield from _genrm(config)
    yield from _scorer_room(config)


def verifiers_of(config: RunConfig) -> set[str]:
    """Return every verifier that a run names, parts of composed ones, too."""
    named: set[str] = set()
    for reward in _rewards(config).values():
        parts = [*reward.gates, *reward.terms] if isinstance(reward, MixSettings) else []
        named |= {reward.kind, *(part.reward.kind for part in parts)}
    return named


def _rewards(config: RunConfig) -> dict[str, Settings]:
    """Return the rewards of all suites and tasks, and what picks among a suite's patches, by their keys."""
    rewards: dict[str, Settings] = {
        f"evaluation.suites.{name}.reward": suite.reward for name, suite in config.evaluation.suites.items()
    }
    for name, suite in config.evaluation.suites.items():
        if suite.pick is not None:
            validating = {"regression": suite.pick.regression, "reproduction": suite.pick.reproduction}
            rewards |= {f"evaluation.suites.{name}.pick.{key}": settings for key, settings in validating.items()}
    for name, stage in config.stages.items():
        rewards |= {f"stages.{name}.{key}.reward": task.reward for key, task in stage.judged().items()}
    return rewards


def _deadlines(config: RunConfig) -> Problems:
    """A verifier's own limits must fit into the time that its verdicts have."""
    timed = [kind for kind in SETTINGS if kind not in (PREFERENCE, GENRM)]
    for name in config.reward.deadlines:
        if name not in timed and not is_plugin(name):
            near = difflib.get_close_matches(name, timed, n=1)
            mend = f"did you mean {near[0]}?" if near else None
            yield CascadeError("unknown verifier", value=f"reward.deadlines.{name}", limit=", ".join(timed), mend=mend)
    for key, reward in _rewards(config).items():
        deadline_s = config.reward.deadlines.get(reward.kind, config.reward.deadline_s)
        if reward.needs_s >= deadline_s:
            yield CascadeError(
                "a verifier's own limits don't fit into its deadline",
                value=f"{key} of {reward.kind}: {reward.needs_s:g} s",
                limit=f"under reward.deadlines.{reward.kind}={deadline_s:g}",
                mend=f"reward.deadlines.{reward.kind}={2 * reward.needs_s:g}, or lower limits",
            )


def _steps(config: RunConfig) -> Problems:
    """An environment is used as it can be, and a step of one that has limits of its own fits into its deadline.

    The steps of a process take turns in one sandbox, so the last waits for all others. One that is ended at its
    deadline is an error: a policy that uses all its time would leave its group so.
    """
    places: dict[str, PromptsConfig | SuiteConfig] = {
        f"evaluation.suites.{name}": suite for name, suite in config.evaluation.suites.items()
    }
    for name, stage in config.stages.items():
        places |= {f"stages.{name}.{key}": rules for key, rules in stage.asked().items()}
    for key, asked in places.items():
        environment = asked.environment
        made = load_plugin(ENVIRONMENTS.get(environment.kind, environment.kind))
        if (misuses := getattr(made, "misuses", None)) is not None:
            reward = getattr(asked, "reward", None)
            yield from misuses(key, environment, None if reward is None else reward.kind)
        longest_step_s = getattr(made, "longest_step_s", None)
        if longest_step_s is None:
            continue
        threads = config.environments.threads
        need_s = threads * longest_step_s(environment.settings)
        deadline_s = environment.step_deadline_s or config.reward.deadline_s
        if need_s > deadline_s:
            yield CascadeError(
                "an environment's own limits don't fit into the deadline of a step",
                value=f"{key} of {environment.kind}: {need_s:g} s for {threads} at a time",
                limit=f"{key}.environment.step_deadline_s={deadline_s:g}",
                mend=f"{key}.environment.step_deadline_s={need_s:g}, or lower limits, or environments.threads",
            )


def _preference(config: RunConfig) -> Problems:
    """Whoever judges by preference names a reward model that is there by then; nobody else names one."""
    stages = list(config.stages)
    places = [
        (f"evaluation.suites.{name}", suite.reward.kind == PREFERENCE, suite.reward_model, stages)
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
            yield CascadeError(
                "that stage is no reward model by then",
                value=value,
                limit=limit,
                mend=f"{prefix}.reward_model={next(iter(trained), 'null')}",
            )


def _genrm(config: RunConfig) -> Problems:
    """Who compares responses needs a server, and more than one response to compare."""
    used = {
        f"stages.{name}.{key}.reward.kind": stage.responses_per_prompt()
        for name, stage in config.stages.items()
        for key, task in stage.judged().items()
        if task.reward.kind == GENRM
    }
    used |= {
        f"evaluation.suites.{name}.reward.kind": suite.samples_per_prompt
        for name, suite in config.evaluation.suites.items()
        if suite.reward.kind == GENRM
    }
    for key, size in used.items():
        if size < 2:
            mend = "raise samples_per_prompt"
            yield CascadeError("genrm compares responses to one prompt", value=f"{key}: {size}", limit="2", mend=mend)
    if used and not (config.reward.genrm.url and config.reward.genrm.model):
        yield CascadeError(
            "genrm needs a judge's server",
            value=next(iter(used)),
            mend="reward.genrm.url=http://HOST:PORT/v1 reward.genrm.model=NAME",
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
        yield CascadeError(
            "the reward model needs more GPUs than there are",
            value=value,
            limit=have,
            mend=f"scorer.num_replicas={max(1, have // config.scorer.tensor_parallel_size)}",
        )
