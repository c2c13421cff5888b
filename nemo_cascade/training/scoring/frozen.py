"""One rank that holds several frozen models at once and scores labels with each: no optimizer, no gradients."""

from pathlib import Path
from typing import Any

import torch

from nemo_cascade.errors import ModelError
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.megatron import backend
from nemo_cascade.models.megatron.build import build_model
from nemo_cascade.models.weights import load_weights
from nemo_cascade.training.precision import Padding, check_precision
from nemo_cascade.training.rank import RankWorker
from nemo_cascade.training.scoring.scored import Scoring
from nemo_cascade.training.setup import FrozenSetup
from nemo_cascade.training.step import forward_logprobs
from nemo_cascade.types import BatchSource, Float32


class FrozenWorker(RankWorker):
    """One rank. All methods but `close` are collective.

    Its arguments are those of `RankWorker`.
    """

    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self._models: dict[str, tuple[list[Any], Scoring]] = {}

    def setup(self, setup: FrozenSetup) -> None:
        """Load every model.

        Raises:
            ModelError: a folder holds no language model, or one that this layout can't have.
        """
        capability = torch.cuda.get_device_capability() if backend.HAS_GPU else None
        check_precision(setup.precision, gpu=backend.HAS_GPU, capability=capability)
        axes = self._join(setup.parallel, seed=0).axes
        padding = Padding.of(setup.precision, setup.parallel.layout)
        for path in setup.hf_paths:
            arch = read_architecture(Path(path), setup.model.family)
            if arch.scores:
                raise ModelError("a reward model has no log-probabilities", value=path, limit="a language model")
            chunks = build_model(
                arch,
                model=setup.model,
                parallel=setup.parallel,
                precision=setup.precision,
                seq_length=setup.seq_length,
                axes=axes,
            )
            load_weights(chunks, arch, Path(path), axes)
            frozen = [chunk.requires_grad_(False).eval() for chunk in chunks]
            self._models[path] = frozen, Scoring(arch.vocab_size, setup.temperature, padding, axes)

    def logprobs(self, model: str, source: BatchSource) -> list[Float32] | None:
        """Score the labels of a batch with one of the models.

        Args:
            model: its folder, as in the set-up.
            source: hands out the micro-batches of every data-parallel rank.

        Returns:
            Per own micro-batch the log-probability of each label [T], temperature applied; None on ranks that are
            not the last pipeline stage's first tensor-parallel rank.
        """
        assert self._runtime is not None, "setup() joins the job"
        chunks, scoring = self._models[model]
        replicas = scoring.axes["dp"]
        scores = forward_logprobs(chunks, list(source.micro_batches(0, replicas.rank, replicas.size)), scoring)
        return [score.cpu().numpy() for score in scores] if self._runtime.reports else None

    def close(self) -> None:
        """Free the models and leave the job. Idempotent."""
        self._models = {}
        self._leave()
