"""One rank of a reward model that only scores: no optimizer, no gradients."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.tokenizer import ChatTokenizer, load_tokenizer
from nemo_cascade.data.layout import lay_out, make_document
from nemo_cascade.data.scored import encode_scored
from nemo_cascade.errors import ModelError, RewardError
from nemo_cascade.models.architecture import ScoreHead
from nemo_cascade.models.axes import Axes
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.megatron import backend
from nemo_cascade.models.megatron.build import build_model
from nemo_cascade.models.weights import load_weights
from nemo_cascade.training.precision import Padding, check_precision
from nemo_cascade.training.rank import RankWorker
from nemo_cascade.training.scoring.request import Request, ScorerSetup
from nemo_cascade.training.step import forward_outputs
from nemo_cascade.types import Int32, PackedBatch, Verdict


class ScorerWorker(RankWorker):
    """One tensor-parallel rank. All methods but `close` are collective.

    Its arguments are those of `RankWorker`.
    """

    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self._setup: ScorerSetup
        self._model: list[Any] = []
        self._tokenizer: ChatTokenizer
        self._policy_tokenizer: ChatTokenizer
        self._axes: Axes = {}
        self._padding, self._longest = Padding(), 0

    def setup(self, setup: ScorerSetup) -> None:
        """Load a reward model in place of the one before.

        Raises:
            ModelError: the folder holds no reward model, or one that this layout can't have.
        """
        self._model = []
        capability = torch.cuda.get_device_capability() if backend.HAS_GPU else None
        check_precision(setup.precision, gpu=backend.HAS_GPU, capability=capability)
        arch = read_architecture(Path(setup.hf_path), setup.model.family)
        if not isinstance(arch.head, ScoreHead):
            mend = "train one by a stage of kind reward_model"
            raise ModelError("this is no reward model: it has no score head", value=setup.hf_path, mend=mend)
        self._weights_K = torch.tensor(arch.head.weights, device=backend.device())
        parallel = ParallelConfig(tensor_model_parallel_size=setup.tensor_parallel_size, pad_attention_groups=True)
        axes = self._axes = (self._runtime or self._join(parallel, seed=0)).axes
        self._longest = arch.max_position_embeddings
        chunks = build_model(
            arch, model=setup.model, parallel=parallel, precision=setup.precision, seq_length=self._longest, axes=axes
        )
        load_weights(chunks, arch, Path(setup.hf_path), axes)
        self._model = [chunk.requires_grad_(False).eval() for chunk in chunks]
        self._tokenizer = load_tokenizer(setup.hf_path)
        self._policy_tokenizer = load_tokenizer(setup.policy_tokenizer)
        self._padding = Padding.of(setup.precision, parallel.layout)
        self._setup = setup

    def score(self, requests: Sequence[Request]) -> list[Verdict]:
        """Return a verdict for each response, the same on every rank.

        Responses are packed in the given order, so the same requests give the same bits, whatever else is going on.
        """
        began = time.monotonic()
        texts = [(r.messages, response_text(self._policy_tokenizer, r.response_ids, r.prompt_end)) for r in requests]
        encoded = encode_scored(self._tokenizer, texts)
        fitting = [i for i, ids in enumerate(encoded) if len(ids) <= self._longest]
        packs = self._packs([encoded[i] for i in fitting])
        parts = forward_outputs(self._model, packs, self._padding, self._axes) if packs else []
        scores = [score for part in parts for score in (part @ self._weights_K).tolist()]
        seconds = (time.monotonic() - began) / max(1, len(requests))
        by_request = dict(zip(fitting, scores, strict=True))
        return [self._verdict(by_request.get(i), len(ids), seconds) for i, ids in enumerate(encoded)]

    def self_test(self) -> None:
        """Prove that the model tells responses apart and that company in a pack doesn't change a score.

        Raises:
            RewardError: it fails.
        """
        question = [{"role": "user", "content": "Say something."}]
        encode = self._policy_tokenizer.encode
        requests = [Request(question, encode(text), encode("")) for text in ("a", "yes, yes, yes", "No.")]
        together = [verdict.score for verdict in self.score(requests)]
        alone = [self.score([request])[0].score for request in requests]
        if None in together or None in alone:
            raise RewardError("the reward model gives scores that aren't finite", value=together)
        spread = np.ptp(np.asarray(together, dtype=np.float64))
        apart = np.abs(np.asarray(together, dtype=np.float64) - np.asarray(alone, dtype=np.float64)).max()
        tolerance = 1e-3 if self._setup.precision.dtype == "fp32" else 0.1
        if spread == 0 or apart > tolerance * max(1.0, spread):
            raise RewardError("the reward model fails its self-test", value=f"in one pack {together}, alone {alone}")

    def close(self) -> None:
        """Free the model and leave the job. Idempotent."""
        self._model = []
        self._leave()

    def _packs(self, encoded: Sequence[Int32]) -> list[Any]:
        packs: list[list[PackedBatch]] = []
        room = 0
        for ids in encoded:
            marked = np.zeros(len(ids), np.uint8)
            marked[-1] = 1
            if len(ids) > room or not packs:
                packs.append([])
                room = self._setup.micro_batch_tokens
            packs[-1].append(make_document(ids, marked))
            room -= len(ids)
        return [lay_out(pack) for pack in packs]

    def _verdict(self, score: float | None, tokens: int, seconds: float) -> Verdict:
        if score is None:
            detail = f"{tokens} tokens, the reward model takes {self._longest}"
            return Verdict(None, error="too_long", detail=detail, seconds=seconds)
        if not math.isfinite(score):
            return Verdict(None, error="not_finite", detail=f"the reward model scored {score}", seconds=seconds)
        return Verdict(score, seconds=seconds)
