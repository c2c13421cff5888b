"""Profile an RL stage's prompts with a named model: engines and verifiers of the run, a file of pass rates."""

from __future__ import annotations

import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.tasks import ProfileConfig, TaskConfig
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.profiles import PassRate, ProfileFile, prompt_key
from nemo_cascade.data.prompts.prompt_sets import load_prompts
from nemo_cascade.data.prompts.prompt_stream import digest_of
from nemo_cascade.rewards.records import record_problem
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.profile import pass_rates
from nemo_cascade.stages.roles import Roles
from nemo_cascade.storage.hashes import hash_folder
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer


def profile_prompts(
    config: RunConfig, roles: Roles, stage: GrpoStage, model: Path, samples: int
) -> tuple[Path, dict[str, PassRate]]:
    """Return where the pass rates of a stage's prompts are, and what they are, by prompt key.

    All prompts are asked, whatever profiles the stage itself is filtered by; those that the file already holds aren't
    asked again.

    Args:
        config: the run's configuration.
        roles: actors.
        stage: whose prompts these are, and how they are sampled and judged.
        model: HF folder.
        samples: of each prompt.

    Raises:
        DataError: rows are no prompts.
        RewardError: a verifier fails its self-test, or too many verdicts are errors.
    """
    tokenizer = load_tokenizer(model)
    room = config.rollout.max_model_len - stage.longest_response
    tasks = {name: replace(task, profile=ProfileConfig()) for name, task in stage.tasks.items()}
    prompts = load_prompts(tasks, tokenizer, room, config.data_dir, record_problem)
    how = {"samples": samples, "sampling": _plain(stage.sampling), "seed": config.seed}
    who = {"model": hash_folder(model), "model_folder": model.name, "prompts": digest_of(prompts)}
    file = ProfileFile(Path(config.data_dir) / "profiles", {**who, **how, "judges": _judges(tasks)})
    known = file.open()
    left = [task for task in prompts.prompts if prompt_key(task.record) not in known]
    if left:
        engines = roles.rollout(model)
        judges = roles.judges(model, samples, None)
        for task in tasks.values():
            judges.self_test([task.reward.kind], task.reward.options)
        by = Answerers(engines, judges, tokenizer, config, roles.environments(model))
        seed = zlib.crc32(f"{config.seed}/profile".encode())
        with Progress(f"profile of {model.name}", len(left) * samples, 0, config.logging) as progress:
            timer, told = PhaseTimer(), lambda ended: progress.advance(units=ended)
            for some, rates in pass_rates(left, samples, stage.sampling, seed, by, timer, told):
                file.add(some, rates)
    return file.path, file.open()


def _judges(tasks: dict[str, TaskConfig]) -> dict[str, Any]:
    return {
        name: {"kind": task.reward.kind, **task.reward.options, "environment": _plain(task.environment)}
        for name, task in tasks.items()
    }


def _plain(block: Any) -> dict[str, Any]:
    plain: dict[str, Any] = asdict(block)
    return plain
