"""Which weights an engine must receive: the names and shapes of the HF folder that it was started from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import ModelError, WeightSyncError
from nemo_cascade.models.hf_folder import HfTensors
from nemo_cascade.rollout.buckets import TensorEntry


class WeightManifest:
    """The tensors of an HF folder, read from the safetensors headers, without their data.

    Attributes:
        shapes: HF name -> shape.
        optional: names that may be sent or left out (the head of a model with tied embeddings).
        fp32: names of what the engine holds in float32 whatever its dtype.
    """

    def __init__(
        self, shapes: dict[str, tuple[int, ...]], optional: frozenset[str], fp32: frozenset[str] = frozenset()
    ) -> None:
        self.shapes, self.optional, self.fp32 = shapes, optional, fp32

    @classmethod
    def of_folder(cls, folder: Path, fp32: frozenset[str] = frozenset()) -> WeightManifest:
        """Read names and shapes of a folder's weights, by the rules by which the trainer reads them.

        Raises:
            ModelError: no usable weights, or no config.json.
        """
        if not (folder / "config.json").is_file():
            raise ModelError(
                "no HF model",
                value=folder,
                limit="config.json and *.safetensors",
                mend="name the folder that holds them",
            )
        shapes = HfTensors(folder).weight_shapes
        tied = bool(read_json_object(folder / "config.json").get("tie_word_embeddings", False))
        return cls(shapes, frozenset({"lm_head.weight"}) if tied else frozenset(), fp32)

    def check_bucket(self, entries: Iterable[TensorEntry], dtype: str, received: set[str]) -> None:
        """Refuse tensors that the model doesn't have, has in another shape or dtype, or already received.

        Raises:
            WeightSyncError: lists every violation.
        """
        problems = []
        for entry in entries:
            shape = self.shapes.get(entry.name)
            if shape is None and entry.name not in self.optional:
                problems.append(f"{entry.name}: the engine's model has no such weight")
            elif shape is not None and shape != entry.shape:
                problems.append(f"{entry.name}: shape {entry.shape}, the engine's is {shape}")
            held = "float32" if entry.name in self.fp32 else dtype
            if entry.dtype != held and entry.dtype in ("float32", "bfloat16", "float16"):
                problems.append(f"{entry.name}: dtype {entry.dtype}, the engine's is {held}")
            if entry.name in received:
                problems.append(f"{entry.name}: sent twice")
        if problems:
            raise WeightSyncError(
                f"{len(problems)} weights don't fit the engine's model",
                value="; ".join(problems[:5]),
                mend="policy and engine must be of the same architecture and vocabulary",
            )

    def check_complete(self, received: set[str]) -> None:
        """Refuse a sync that left weights as they were.

        Raises:
            WeightSyncError: names weights that were never sent.
        """
        missing = sorted(set(self.shapes) - self.optional - received)
        if missing:
            raise WeightSyncError(
                f"{len(missing)} of {len(self.shapes)} weights were never sent: the engine would mix two versions",
                value=", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
                mend="the policy's weight_tensors() must yield every tensor of the HF folder",
            )
