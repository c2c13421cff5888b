"""HF model folders on disk: what tensors are in one, reading them in parts, writing one atomically."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.cuts import Shape
from nemo_cascade.models.families import family_named
from nemo_cascade.models.rules import hf_shapes
from nemo_cascade.storage.publish import publishing

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"
# fmt: off
_COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)
# fmt: on
SHARD_BYTES = 4 * 2**30
"""Largest safetensors file that is written, unless one tensor alone is larger."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies, and what it is."""

    file: Path
    shape: Shape
    dtype: torch.dtype


class HfTensors:
    """The weights of a folder. Opens files lazily, reads only the parts that are asked for.

    Where there is an index, it says which files hold them: others may lie beside (a consolidated.safetensors in
    another layout). But a model.safetensors that it doesn't list is a second checkpoint, which transformers would read
    and vLLM wouldn't. Without an index all files hold them, each tensor once.

    Args:
        folder: HF model folder.

    Raises:
        ModelError: no safetensors, a damaged file, the index and the files disagree, two checkpoints in one folder, or
            a dtype that isn't floating.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored: dict[str, StoredTensor] = {}
        self._open: dict[Path, Any] = {}
        listed = _weight_map(folder)
        files = (
            sorted(folder.glob("*.safetensors")) if listed is None else sorted({folder / n for n in listed.values()})
        )
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise ModelError(
                "files listed in the safetensors index are missing",
                value=", ".join(missing),
                mend="fetch the missing files: `nemo-cascade fetch`, or `hf download`",
            )
        if not files:
            raise ModelError(
                "no safetensors in the model folder",
                value=str(folder),
                mend="save the model with save_pretrained(safe_serialization=True)",
            )
        if listed is not None and (folder / _WHOLE).is_file() and folder / _WHOLE not in files:
            mend = f"remove {_INDEX} and its shards if {_WHOLE} is the model, else remove that"
            raise ModelError(
                f"two checkpoints in one folder: {_WHOLE} and an index without it", value=folder, mend=mend
            )
        for file in files:
            self._read_header(file)
        if listed is not None and (wrong := _misplaced(listed, self.stored)):
            what = "the safetensors index and the files list different tensors"
            raise ModelError(what, value=", ".join(wrong[:20]), mend="download the folder again, or remove the index")

    def _read_header(self, file: Path) -> None:
        try:
            opened: Any = safe_open(file, "pt")
        except (SafetensorError, OSError) as error:
            raise ModelError(
                "damaged safetensors file",
                value=f"{file}: {error}",
                mend="fetch the file again: it is cut or a git-lfs pointer",
            ) from error
        self._open[file] = opened
        for name in opened.keys():  # noqa: SIM118 - not a mapping
            part = opened.get_slice(name)
            kind = part.get_dtype()
            if kind not in _DTYPES:
                mend = "give the checkpoint in bf16 or fp32, before it was quantised"
                limit = ", ".join(_DTYPES)
                raise ModelError("the weights are quantised", value=f"{name} is {kind}", limit=limit, mend=mend)
            if name in self.stored:
                value = f"{name} in {self.stored[name].file.name} and {file.name}"
                mend = "two checkpoints were mixed: remove the files of one"
                raise ModelError("a tensor is in two files of the folder", value=value, mend=mend)
            self.stored[name] = StoredTensor(file, tuple(part.get_shape()), _DTYPES[kind])

    @property
    def weight_shapes(self) -> dict[str, Shape]:
        """Names and shapes without the tensors that nobody reads, since they are computed anew."""
        return {name: tensor.shape for name, tensor in self.stored.items() if not _is_recomputed(name)}

    def part(self, name: str) -> Any:
        """Return a slice-able handle of a tensor (see `cuts.Slice`)."""
        file = self.stored[name].file
        if file not in self._open:
            self._open[file] = safe_open(file, "pt")
        return self._open[file].get_slice(name)

    def let_go(self) -> None:
        """Unmap the files: pages that were read count as this process's memory until then."""
        self._open.clear()

    def check(self, arch: Architecture, *, fresh_head: bool = False) -> None:
        """Compare names and shapes with what the architecture needs.

        Args:
            arch: the architecture.
            fresh_head: the folder is a language model's that gets a new score head: its output layer is left out.

        Raises:
            ModelError: listing every missing, surplus and wrongly shaped tensor.
        """
        expected, family = hf_shapes(arch), family_named(arch.family)
        if fresh_head:
            del expected[family.score]
        problems = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in self.stored]
        problems += [
            f"wrong shape: {name} is {list(self.stored[name].shape)}, must be {list(shape)}"
            for name, shape in expected.items()
            if name in self.stored and self.stored[name].shape != shape
        ]
        output, embedding = family.output, family.embedding
        surplus = [name for name in self.weight_shapes if name not in expected]
        if fresh_head and output in surplus:
            surplus.remove(output)
        if arch.tied and output in surplus:
            # Some writers store the tied tensor twice; harmless while both are the same.
            surplus.remove(output)
            if not problems and not self._same(output, embedding):
                problems.append(f"{output} differs from {embedding}, although config.json says they are tied")
        problems += [f"surplus: {name} {list(self.stored[name].shape)}" for name in surplus]
        if problems:
            raise ModelError(
                f"{len(problems)} tensor(s) of this folder don't fit its config.json:\n  " + "\n  ".join(problems),
                value=str(self.folder),
                mend="give weights that belong to this config.json",
            )

    def _same(self, left: str, right: str) -> bool:
        a, b = self.part(left), self.part(right)
        if a.get_shape() != b.get_shape():
            return False
        rows, step = a.get_shape()[0], 8192
        return all(torch.equal(a[i : i + step], b[i : i + step]) for i in range(0, rows, step))


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Return what the folder's index says, tensor -> file; None where there is no index."""
    index = folder / _INDEX
    if not index.is_file():
        return None
    listed = read_json_object(index).get("weight_map")
    # A file elsewhere would be read by this side alone.
    if not isinstance(listed, dict) or not all(isinstance(f, str) and Path(f).name == f for f in listed.values()):
        limit = '{"weight_map": {tensor: file of this folder}}'
        raise ModelError(
            f"{_INDEX} has no usable weight_map",
            value=index,
            limit=limit,
            mend="fetch the file again, or save the model with save_pretrained",
        )
    return listed


def _misplaced(listed: Mapping[str, str], stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return the tensors that aren't where the index says."""
    found = {name: tensor.file.name for name, tensor in stored.items()}
    return sorted(name for name in {*listed, *found} if listed.get(name) != found.get(name))


def _is_recomputed(name: str) -> bool:
    """Tell whether a tensor is a buffer that everybody makes anew: rotary frequencies, in folders of 2023."""
    return name.endswith(".rotary_emb.inv_freq")


def write_hf_folder(
    target: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    companions: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    config_changes: Mapping[str, Any] | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write an HF model folder: complete under its name, or not at all.

    Args:
        target: the folder; one that exists is replaced once the new one is complete.
        tensors: names and whole tensors; taken one at a time, at most one shard is held in memory.
        companions: folder whose config.json and tokenizer files are copied.
        shard_bytes: size at which a new file begins.
        config_changes: fields of config.json that differ from the companions'; those that a generation_config.json
            has, too, differ there as well.
        beside: name -> text of further files.
    """
    with publishing(target) as scratch:
        files, dtypes = _write_shards(scratch, tensors, shard_bytes)
        for name in _COMPANIONS:
            if (companions / name).is_file():
                shutil.copyfile(companions / name, scratch / name)
        config = read_json_object(scratch / "config.json")
        config.pop("torch_dtype", None)
        config.update(config_changes or {})
        config["dtype"] = str(max(dtypes, key=lambda dtype: dtypes[dtype])).removeprefix("torch.")
        (scratch / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _change_shared(scratch / "generation_config.json", config_changes or {})
        for name, text in (beside or {}).items():
            (scratch / name).write_text(text, encoding="utf-8")
        if len(files) > 1:
            total = sum(size for _, size in files.values())
            weight_map = {name: file for name, (file, _) in files.items()}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (scratch / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _change_shared(file: Path, changes: Mapping[str, Any]) -> None:
    """Change what a file says of these fields; who generates reads it before config.json."""
    said = read_json_object(file) if file.is_file() else {}
    if shared := {name: value for name, value in changes.items() if name in said and said[name] != value}:
        file.write_text(json.dumps({**said, **shared}, indent=2) + "\n", encoding="utf-8")


def _write_shards(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], shard_bytes: int
) -> tuple[dict[str, tuple[str, int]], dict[torch.dtype, int]]:
    """Return file and bytes of every tensor, and bytes of every dtype."""
    held: dict[str, torch.Tensor] = {}
    shards: list[list[tuple[str, int]]] = []
    dtypes: dict[torch.dtype, int] = {}

    def flush() -> None:
        save_file(held, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append([(name, tensor.nbytes) for name, tensor in held.items()])
        held.clear()

    for name, tensor in tensors:
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > shard_bytes:
            flush()
        held[name] = tensor.detach().to("cpu").contiguous()
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.nbytes
    flush()
    files = {}
    for number, shard in enumerate(shards):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"shard-{number}").rename(folder / name)
        files.update({tensor: (name, size) for tensor, size in shard})
    return files, dtypes
