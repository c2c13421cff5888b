"""Everything a cascade reads, checked before the run folder exists and before any process starts.

The start model is made, every stage's conversations are tokenised and packed (the stages find them again by their
content), every prompt of every RL stage and suite is rendered. What is wrong is told at once, for all stages. At last
prompts are looked for that sets share.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_cascade.cascade.hygiene import check_hygiene
from nemo_cascade.config.reading.provenance import config_values
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.errors import CascadeError, ConfigError, ModelError
from nemo_cascade.losses.cross_entropy import SftLoss
from nemo_cascade.losses.objective import OwnObjective
from nemo_cascade.models.sources import materialize_model
from nemo_cascade.nano.prepare import prepare_data
from nemo_cascade.rewards.records import record_problem
from nemo_cascade.stages.kinds import kind_of
from nemo_cascade.storage.hashes import hash_json
from nemo_cascade.training.schedule import check_warm_up

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the first stage starts from.

    Attributes:
        start_hf: HF folder of the start model.
        tokenised: folder of the packed data of all stages, under keys of their content.
        hygiene: report of the search for prompts that sets share; None where it is off.
    """

    start_hf: Path
    tokenised: Path
    hygiene: dict[str, Any] | None = None


def check_inputs(config: RunConfig) -> Inputs:
    """Prepare data and start model, and read all inputs once.

    Raises:
        CascadeError: what is wrong; a ConfigError that lists everything where more than one thing is.
    """
    start_hf = _start_model(config, prepare_data(config))
    load_tokenizer(start_hf)
    inputs = Inputs(start_hf, Path(config.data_dir) / "tokenised")
    problems: list[CascadeError] = []
    for name in [*config.stages, *config.evaluation.suites]:
        try:
            _read(config, name, inputs)
        except CascadeError as problem:
            problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError(problems)
    return replace(inputs, hygiene=check_hygiene(config))


def prepared_tokenizer(config: RunConfig) -> Path:
    """Prepare data and return a folder with the tokenizer that the start model has, without reading any weights."""
    tokenizer, models = prepare_data(config), Path(config.data_dir) / "models"
    if config.model.source == "smollm2":
        return _start_model(config, tokenizer)
    folder = Path(config.model.path or "") if config.model.source == "hf" else tokenizer
    if folder is None:
        raise ModelError("model.source=random needs a tokenizer", mend="prepare one (prepare=nano writes one)")
    return install(folder, config.model.chat_template, models, config.model.chat_template_date)


def _start_model(config: RunConfig, tokenizer: Path | None) -> Path:
    models = Path(config.data_dir) / "models"
    key = hash_json({"model": config_values(config)["model"], "seed": config.seed})[:16]
    folder = materialize_model(config.model, models / f"{config.model.name}-{key}", config.seed, tokenizer)
    return install(folder, config.model.chat_template, models, config.model.chat_template_date)


def _read(config: RunConfig, name: str, inputs: Inputs) -> None:
    """Read what one stage or suite reads."""
    if name in config.stages:
        stage = config.stages[name]
        prepared = kind_of(stage).prepare(config, name, stage, inputs.start_hf, inputs.tokenised)
        log.info("%s: %s", name, prepared.told)
        if (trained := stage.trained()) is not None:
            check_warm_up(trained.optimizer, prepared.steps, name)
            if (own := trained.own_objective()) is not None:
                OwnObjective(own.kind, own.settings, SftLoss()).made()
    if name in config.evaluation.suites:
        suite, tokenizer = config.evaluation.suites[name], load_tokenizer(inputs.start_hf)
        limit = config.rollout.max_model_len - suite.sampling.max_tokens
        path, schema = local_path(suite, config.data_dir), schema_of(suite.schema, suite.columns)
        prompts = PromptSet.load(
            path,
            name,
            suite.reward.kind,
            suite.mode,
            tokenizer,
            limit,
            schema,
            settings=suite.reward.options,
            record_check=record_problem,
        )
        prompts.first(suite.num_prompts)
