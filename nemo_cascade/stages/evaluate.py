"""Score a model on the suites of all domains, on the same prompts with the same seeds at every stage."""

import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.config.pick import PickConfig
from nemo_cascade.config.schema import RunConfig, SuiteConfig
from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.rewards.form import obeys_mode
from nemo_cascade.rewards.records import record_problem
from nemo_cascade.rl.ask import Answerers, ask
from nemo_cascade.rl.group import Group
from nemo_cascade.stages.picks import pick_samples
from nemo_cascade.stages.roles import Roles
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import FinishReason, Task


def evaluate(
    config: RunConfig,
    roles: Roles,
    hf_folder: Path,
    version: int,
    label: str,
    suites: Mapping[str, SuiteConfig],
    reward_models: Mapping[str, Path],
) -> Scores:
    """Return the scores of the weights in `hf_folder` on suites, per prompt and sample.

    Args:
        config: the run's configuration.
        roles: actors.
        hf_folder: the model.
        version: of its weights, should they have to be handed to the engines.
        label: who is scored, for people.
        suites: domain -> suite.
        reward_models: stage -> HF folder of the reward models that the suites name.

    Raises:
        RewardError: a verifier fails its self-test, or more verdicts are errors than reward.max_error_fraction allows.
    """
    if not suites:
        return Scores({})  # nothing to ask an engine
    rollout = roles.engines_with(hf_folder, version)
    return score_suites(config, roles, rollout, hf_folder, label, suites, reward_models)


def score_suites(
    config: RunConfig,
    roles: Roles,
    rollout: RolloutGroup,
    hf_folder: Path,
    label: str,
    suites: Mapping[str, SuiteConfig],
    reward_models: Mapping[str, Path],
) -> Scores:
    """Return the scores of the weights that the engines hold; `hf_folder` has their tokenizer. See `evaluate`."""
    samples, details = {}, {}
    tokenizer, environments = load_tokenizer(hf_folder), roles.environments(hf_folder)
    total = sum(suite.num_prompts * suite.samples_per_prompt for suite in suites.values())
    with Progress(f"{label}: scoring", total, 0, config.logging) as progress:
        for domain, suite in suites.items():
            reference = suite.reward_model
            model = None if reference is None else reward_models.get(reference, Path(reference))
            judges = roles.judges(hf_folder, suite.samples_per_prompt, model)
            judges.self_test([suite.reward.kind], suite.reward.options)
            by = Answerers(rollout, judges, tokenizer, config, environments)
            tasks = _prompts(domain, suite, by, roles.asked).first(suite.num_prompts)
            samples[domain], details[domain] = _run_suite(domain, suite, tasks, by, progress)
    return Scores(samples, details)


def scorable_suites(config: RunConfig, reward_models: Collection[str]) -> dict[str, SuiteConfig]:
    """Return the suites whose reward model, if a stage trains it, is among those that are there."""
    return {
        domain: suite
        for domain, suite in config.evaluation.suites.items()
        if suite.reward_model not in config.stages or suite.reward_model in reward_models
    }


def _prompts(domain: str, suite: SuiteConfig, by: Answerers, asked: dict[str, PromptSet]) -> PromptSet:
    """Return a suite's prompts; what was `asked` before isn't read again."""
    how: dict[str, Any] = {
        "domain": domain,
        "verifier": suite.reward.kind,
        "mode": suite.mode,
        "max_prompt_tokens": by.config.rollout.max_model_len - suite.sampling.max_tokens,
        "schema": schema_of(suite.schema, suite.columns),
        "settings": suite.reward.options,
        "environment": suite.environment.use,
    }
    path = local_path(suite, by.config.data_dir)
    key = f"{path} {by.tokenizer.key} {how}"
    if key not in asked:
        asked[key] = PromptSet.load(path, tokenizer=by.tokenizer, record_check=record_problem, **how)
    return asked[key]


def _run_suite(
    domain: str, suite: SuiteConfig, tasks: Sequence[Task], by: Answerers, progress: Progress
) -> tuple[dict[str, list[float | None]], dict[str, float]]:
    """Answer and judge one suite; a sample whose verifier failed has no score, and such are bounded.

    Returns:
        Task id -> score of each sample, and `Scores.details` of the suite.
    """
    config, tokenizer = by.config, by.tokenizer
    # The seed doesn't depend on the stage: a difference between stages is the weights', not the dice's.
    seed = zlib.crc32(f"{config.seed}/evaluation/{domain}".encode())
    groups = ask(
        tasks,
        suite.samples_per_prompt,
        suite.sampling,
        seed,
        by,
        f"the {domain} suite",
        PhaseTimer(),
        lambda ended: progress.advance(domain, units=ended),
    )
    answers = [answer for group in groups for answer in group.answers]
    texts = (response_text(tokenizer, answer.response_ids, answer.context_ids) for answer in answers)
    sums = {
        "response_tokens_mean": sum(answer.num_sampled for answer in answers),
        "truncation_rate": sum(answer.finish_reason == FinishReason.LENGTH for answer in answers),
        "mode_obeyed": sum(obeys_mode(text, suite.mode) for text in texts),
    }
    if suite.sampling.thinking_budget is not None:
        sums["thoughts_closed"] = sum(turn.forced[0] < turn.forced[1] for answer in answers for turn in answer.turns)
    details = {name: value / len(answers) for name, value in sums.items()}
    if suite.pick is not None:
        return _picked(groups, suite, suite.pick, by, seed, details)
    return {group.task.task_id: group.scores for group in groups}, details


def _picked(
    groups: Sequence[Group], suite: SuiteConfig, pick: PickConfig, by: Answerers, seed: int, details: dict[str, float]
) -> tuple[dict[str, list[float | None]], dict[str, float]]:
    """Return the score of the sample that is picked of each prompt; beside it what all and the best of them have."""
    picks = pick_samples(groups, suite, pick, by, seed, f"the {groups[0].task.domain} suite")
    scored = [[score for score in group.scores if score is not None] for group in groups]
    known = [scores for scores in scored if scores]
    details["unpicked_score_mean"] = sum(sum(scores) / len(scores) for scores in known) / max(1, len(known))
    details["unpicked_score_best"] = sum(max(scores) for scores in known) / max(1, len(known))
    details["reproduction_tests_mean"] = sum(one.tests for one in picks.values()) / len(picks)
    return {g.task.task_id: [g.score(picks[g.task.task_id].sample)] for g in groups}, details
