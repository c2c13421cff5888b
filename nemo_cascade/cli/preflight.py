"""Everything that can be refused before a process starts: configuration, plan, model, verifiers, run folder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.plan import PlannedStage, plan_stages
from nemo_cascade.config.checks.host import resolved_device
from nemo_cascade.config.checks.machine import lacks
from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.reading.compose import ConfigDirs, compose
from nemo_cascade.config.reading.provenance import check_run_folder
from nemo_cascade.config.router import RouterConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import StageBase
from nemo_cascade.errors import CascadeError, ConfigError, ModelError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.fit import fitting_sizes, layout_problems, sharing_problems, takes_transformer_engine
from nemo_cascade.models.hf_config import architecture_from_hf, read_architecture, unexpected_fields

# What SmolLM2-135M's own config.json says; its weights come out of an installed package, not of a folder.
SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Preflight:
    """A run that may start.

    Attributes:
        config: the composed configuration.
        provenance: where its values came from.
        stages: the plan.
        architecture: the model's sizes.
        folder: the run folder.
        resumes: whether the folder holds an earlier start of this run.
        lacking: what this machine lacks for it; a run has nothing here.
    """

    config: RunConfig
    provenance: dict[str, Any]
    stages: list[PlannedStage]
    architecture: Architecture
    folder: Path
    resumes: bool
    lacking: list[CascadeError]


def preflight(
    overrides: Sequence[str], config_dir: Path | None, *, fresh_folder: bool = False, elsewhere: bool = False
) -> Preflight:
    """Compose and check a run; writes nothing and starts nothing.

    Args:
        overrides: Hydra's grammar.
        config_dir: the user's own config files.
        fresh_folder: don't look at the run folder, the caller has no use for it.
        elsewhere: the run is not for this machine: what is lacking here is returned, not refused.

    Raises:
        ConfigError: lists every violation of fields, plan, model and machine.
        RunFolderError: the folder belongs to another configuration.
    """
    try:
        config, provenance = compose(overrides, config_dir)
    except ConfigError as error:
        raise ConfigError([*error.violations, *_behind(error, overrides, config_dir, elsewhere)]) from None
    lacking = lacks(config)
    problems: list[CascadeError | str] = [*violations(config), *([] if elsewhere else lacking)]
    folder = RunFolder(Path(config.runs_dir) / config.name)
    stages: list[PlannedStage] = []
    try:
        stages = plan_stages(config, folder)
    except ConfigError as error:
        problems += error.violations
    architecture = None
    if config.model.source != "hf" or _has_config(config) or config.model.architecture:
        try:
            architecture = architecture_of(config)
            problems += model_problems(config, architecture)
        except ModelError as error:
            problems.append(error)
    if problems or architecture is None:
        raise ConfigError(list({str(problem): problem for problem in problems or lacking}.values()))
    resumes = False if fresh_folder else check_run_folder(folder.path, config)
    return Preflight(config, provenance, stages, architecture, folder.path, resumes, lacking)


def _behind(error: ConfigError, overrides: Sequence[str], config_dir: Path | None, elsewhere: bool) -> list[str]:
    """Return what is wrong besides, as if the overrides that can't be read had been left out."""
    told = "\n".join(violation.partition("; mend: ")[0] for violation in error.violations)
    keys = {override: override.partition("=")[0].lstrip("+~") for override in overrides}
    unread = {override for override, key in keys.items() if re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", told)}
    if not unread or any(keys[override] in ConfigDirs.of(config_dir).groups() for override in unread):
        return []  # a file's fault; or without the group that is meant nothing is as it is meant
    kept = [override for override in overrides if override not in unread]
    try:
        preflight(kept, config_dir, fresh_folder=True, elsewhere=elsewhere)
    except ConfigError as more:
        return [violation for violation in more.violations if violation not in error.violations]
    return []


def _has_config(config: RunConfig) -> bool:
    return config.model.path is not None and (Path(config.model.path) / "config.json").is_file()


def architecture_of(config: RunConfig) -> Architecture:
    """Return the sizes of the model that a run starts from; those of `model.architecture` where no folder is at hand.

    Raises:
        ModelError: it is missing, is another than expected or can't be represented.
    """
    if config.model.source == "random":
        # The vocabulary may be left to the tokenizer, which is made with the data: 1 stands for it here.
        return architecture_from_hf({"vocab_size": 1, **config.model.architecture}, config.model.family)
    if config.model.source == "smollm2":
        return architecture_from_hf(SMOLLM2)
    model = config.model
    if _has_config(config):
        architecture = read_architecture(Path(model.path or ""), model.family)
        if different := unexpected_fields(architecture, model.architecture):
            raise ModelError(
                "the model folder holds another model",
                value=f"{model.path}: {'; '.join(different)}",
                mend="set model.path to the model that is meant, or leave model.architecture out: ~model.architecture",
            )
    else:
        architecture = architecture_from_hf(model.architecture, model.family)
    longest = model.max_position_embeddings or architecture.max_position_embeddings
    return replace(architecture, max_position_embeddings=longest)


def model_problems(config: RunConfig, architecture: Architecture) -> list[CascadeError]:
    """Return what makes the policy, or a reward model whose folder is here, unfit for its layout and lengths."""
    problems: list[CascadeError] = []
    if architecture.scores:
        problems.append(
            CascadeError(
                "a reward model can't be a policy",
                value=config.model.path,
                mend="set model.path to a language model; a reward model belongs under stages.NAME.reward_model",
            )
        )
    if architecture.experts is None:
        for name, stage in config.stages.items():
            if (trained := stage.trained()) is None:
                continue
            told = []
            if replace(trained.router, trainable=True) != RouterConfig():
                told.append(("router", "whose router could be treated", str(trained.router)))
            if trained.replays_experts():
                told.append(("router_replay", "whose choice could be replayed", "{enabled: true}"))
            problems += [
                CascadeError(
                    f"{config.model.name} has no experts {missing}",
                    value=f"stages.{name}.{key}={given}",
                    mend=f"~stages.{name}.{key}",
                )
                for key, missing, given in told
            ]
    lengths = {"rollout.max_model_len": config.rollout.max_model_len}
    for name, stage in config.stages.items():
        trained = stage.trained()
        length = {} if trained is None else {f"stages.{name}.seq_length": trained.seq_length}
        if stage.moves_policy:
            lengths |= length
            problems += _unshared(config, name, stage, architecture)
            continue
        parallel = stage.layout(config)
        key = "parallel" if parallel is config.parallel else f"stages.{name}.parallel"
        start = next((use.reference for use in stage.models() if use.role == "start"), None)
        if start is None or (Path(start) / "config.json").is_file():
            own = architecture if start is None else read_architecture(Path(start), config.model.family)
            problems += _unfit(own, start or config.model.name, parallel, key, length)
            problems += _unshared(config, name, stage, own)
        elif start in config.stages:  # a model of this run's own line
            problems += _unshared(config, name, stage, architecture)
    return _unfit(architecture, config.model.name, config.parallel, "parallel", lengths) + problems


def _unshared(config: RunConfig, name: str, stage: StageBase, architecture: Architecture) -> list[CascadeError]:
    """Return why a stage's documents can't share a prompt, where they shall."""
    trained = stage.trained()
    if trained is None or not trained.shares_prompts():
        return []
    on_gpu = resolved_device(config.cluster) == "gpu"  # whose image has Transformer Engine
    fused = takes_transformer_engine(config.model.layer_spec, config.precision.dtype, usable=on_gpu)
    key = f"stages.{name}.share_prompts"
    return [
        CascadeError(f"documents can't share a prompt: {text}", value=f"{key}=true", mend=f"{key}=false")
        for text in sharing_problems(architecture, stage.layout(config), fused=fused)
    ]


def _unfit(
    architecture: Architecture, name: str, parallel: ParallelConfig, layout_key: str, lengths: Mapping[str, int]
) -> list[CascadeError]:
    longest = architecture.max_position_embeddings
    limit = f"max_position_embeddings={longest} of {name}"
    texts = layout_problems(architecture, parallel)
    sizes = fitting_sizes(architecture, parallel) if texts else {}
    mend = " ".join(f"{layout_key}.{key}={size}".lower() for key, size in sizes.items())
    return [
        CascadeError(text, value=f"{layout_key}: {parallel.layout}", limit=f"what divides {name}", mend=mend)
        for text in texts
    ] + [
        CascadeError("longer than the model's positions", value=f"{key}={length}", limit=limit, mend=f"{key}={longest}")
        for key, length in lengths.items()
        if length > longest
    ]
