"""Profile an RL stage's prompts with a named model: engines and verifiers of the run, a file of pass rates."""

import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.preference import SampledPairsConfig
from nemo_cascade.config.stages.tasks import ProfileConfig, TaskConfig
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.profiles import PassRate, ProfileFile, question_key
from nemo_cascade.data.prompts.prompt_sets import PromptSet, load_prompts
from nemo_cascade.data.prompts.prompt_stream import digest_of
from nemo_cascade.rewards.records import record_problem
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.profile import pass_rates
from nemo_cascade.stages.roles import Roles
from nemo_cascade.storage.hashes import hash_folder
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer

Asking = TypeVar("Asking", GrpoStage, SampledPairsConfig)
"""What has tasks, and says how they are sampled."""


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
    room = config.rollout.max_model_len - stage.longest_response
    tasks = {name: replace(task, profile=ProfileConfig()) for name, task in stage.tasks.items()}
    prompts = load_prompts(tasks, load_tokenizer(model), room, config.data_dir, record_problem)
    file = _measured(config, roles, replace(stage, tasks=tasks), prompts, model, samples, version=0)
    return file.path, file.open()


def profiled_at_start(
    config: RunConfig, roles: Roles, stage: Asking, prompts: PromptSet, model: Path, version: int
) -> PromptSet:
    """Return a stage's prompts with the pass rates that its tasks ask to be measured, and those left out that they say.

    What was measured lies beside the data, under a name that all of it hangs on: a resumed stage reads it there.

    Args:
        config: the run's configuration.
        roles: actors; engines are asked only where something is still to be measured.
        stage: the stage, or its round.
        prompts: of its tasks.
        model: HF folder that the stage starts from.
        version: of these weights, should they have to be handed to the engines.
    """
    parts = dict(prompts.parts)
    for name, task in stage.tasks.items():
        if (samples := task.profile.samples) is not None:
            alone = replace(stage, tasks={name: task})
            file = _measured(config, roles, alone, parts[name], model, samples, version)
            parts[name] = parts[name].profiled(replace(task.profile, path=str(file.path), samples=None))
    return prompts if parts == prompts.parts else PromptSet.of_tasks(parts)


def _measured(
    config: RunConfig, roles: Roles, stage: Asking, prompts: PromptSet, model: Path, samples: int, version: int
) -> ProfileFile:
    how = {"samples": samples, "sampling": _plain(stage.sampling), "seed": config.seed}
    who = {"model": hash_folder(model), "model_folder": model.name, "prompts": digest_of(prompts)}
    file = ProfileFile(Path(config.data_dir) / "profiles", {**who, **how, "judges": _judges(stage.tasks)})
    known = file.open()
    left = [task for task in prompts.prompts if question_key(task.record) not in known]
    if not left:
        return file
    engines = roles.engines_with(model, version)
    judges = roles.judges(model, samples, None)
    for task in stage.tasks.values():
        judges.self_test([task.reward.kind], task.reward.options)
    by = Answerers(engines, judges, load_tokenizer(model), config, roles.environments(model))
    seed = zlib.crc32(f"{config.seed}/profile".encode())
    with Progress(f"profile of {model.name}", len(left) * samples, 0, config.logging) as progress:

        def told(ended: int) -> None:
            progress.advance(units=ended)

        for some, rates in pass_rates(left, samples, stage.sampling, seed, by, PhaseTimer(), told):
            file.add(some, rates)
    return file


def _judges(tasks: Mapping[str, TaskConfig]) -> dict[str, Any]:
    return {
        name: {"kind": task.reward.kind, **task.reward.options, "environment": _plain(task.environment)}
        for name, task in tasks.items()
    }


def _plain(block: Any) -> dict[str, Any]:
    plain: dict[str, Any] = asdict(block)
    return plain
