"""Score a model on the suites of all domains, on the same prompts with the same seeds at every stage."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

from nemo_cascade.actors.judges import Judges
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.config.schema import RunConfig, SuiteConfig
from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.errors import RewardError
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.rewards.form import obeys_mode
from nemo_cascade.rewards.records import record_problem
from nemo_cascade.stages.roles import Roles
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.types import FinishReason


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
    samples, details = {}, {}
    rollout = roles.engines_with(hf_folder, version)
    total = sum(suite.num_prompts * suite.samples_per_prompt for suite in suites.values())
    with Progress(f"{label}: scoring", total, 0, config.logging) as progress:
        for domain, suite in suites.items():
            reference = suite.reward_model
            model = None if reference is None else reward_models.get(reference, Path(reference))
            judges = roles.judges(hf_folder, suite.samples_per_prompt, model)
            judges.self_test([suite.reward.kind], suite.reward.options)
            samples[domain], details[domain] = _run_suite(config, domain, suite, rollout, judges, hf_folder, progress)
    return Scores(samples, details)


def scorable_suites(config: RunConfig, reward_models: Collection[str]) -> dict[str, SuiteConfig]:
    """Return the suites whose reward model, if a stage trains it, is among those that are there."""
    return {
        domain: suite
        for domain, suite in config.evaluation.suites.items()
        if suite.reward_model not in config.stages or suite.reward_model in reward_models
    }


def _run_suite(
    config: RunConfig,
    domain: str,
    suite: SuiteConfig,
    rollout: RolloutGroup,
    judges: Judges,
    hf_folder: Path,
    progress: Progress,
) -> tuple[dict[str, list[float | None]], dict[str, float]]:
    """Answer and judge one suite; a sample whose verifier failed has no score, and such are bounded.

    Returns:
        Prompt id -> score of each sample, and `Scores.details` of the suite.
    """
    tokenizer = load_tokenizer(hf_folder)
    prompts = PromptSet.load(
        local_path(suite, config.data_dir),
        domain=domain,
        verifier=suite.reward.kind,
        mode=suite.mode,
        tokenizer=tokenizer,
        max_prompt_tokens=config.rollout.max_model_len - suite.sampling.max_tokens,
        schema=schema_of(suite.schema, suite.columns),
        settings=suite.reward.options,
        record_check=record_problem,
    ).first(suite.num_prompts)
    by_id = {p.prompt_id: p for p in prompts}
    samples: dict[str, list[float | None]] = {p.prompt_id: [None] * suite.samples_per_prompt for p in prompts}
    total, tokens, truncated, obeyed, errors = len(prompts) * suite.samples_per_prompt, 0, 0, 0, 0
    # The seed doesn't depend on the stage: a difference between stages is the weights', not the dice's.
    seed = zlib.crc32(f"{config.seed}/evaluation/{domain}".encode())
    for ended in rollout.generate(prompts, suite.samples_per_prompt, suite.sampling, seed):
        judges.submit([(f"{r.prompt_id}#{r.sample}", by_id[r.prompt_id], r) for r in ended])
        for answer in ended:
            text = response_text(tokenizer, answer.response_ids, by_id[answer.prompt_id].token_ids)
            obeyed += obeys_mode(text, suite.mode)
            tokens += answer.response_ids.size
            truncated += answer.finish_reason == FinishReason.LENGTH
        progress.advance(domain, units=len(ended))
    for key, verdict in judges.drain():
        prompt_id, _, sample = key.rpartition("#")
        samples[prompt_id][int(sample)] = verdict.score
        errors += verdict.score is None
    if errors > config.reward.max_error_fraction * total:
        raise RewardError(
            f"too many verdicts of the {domain} suite are errors",
            value=f"{errors} of {total}",
            limit=f"{config.reward.max_error_fraction:.1%}",
            mend="look at the verifier and its deadline, or raise reward.max_error_fraction",
        )
    means = {"response_tokens_mean": tokens, "truncation_rate": truncated, "mode_obeyed": obeyed}
    return samples, {name: count / total for name, count in means.items()}
