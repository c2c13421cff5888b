"""The few types that every layer shares. Token ids are the currency; text is derived from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


class FinishReason(StrEnum):
    """Why a rollout ended. LENGTH means truncated: the token limit came before the end-of-turn token."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt to roll out, with what its verifier needs to judge the answer.

    Attributes:
        prompt_id: stable and unique in the run, `<set>/<row>`.
        domain: the domain that is scored (`math`, `instruction`, ...).
        verifier: name of the verifier in the reward registry.
        token_ids: the rendered prompt, shape [prompt_tokens].
        record: the source row (answer, tests, constraints, ...), JSON-like.
        settings: of the verifier, for this prompt.
    """

    prompt_id: str
    domain: str
    verifier: str
    token_ids: Int32
    record: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response: exactly the engine's tokens, never re-tokenised.

    Attributes:
        prompt_id: whose response this is.
        sample: 0..G-1 within the prompt's group.
        prompt_ids: [prompt_tokens].
        response_ids: [response_tokens], with the end-of-turn token if it was sampled.
        logprobs: [response_tokens], log-probability of each sampled token under the sampling distribution.
        finish_reason: stop, length or abort.
        version: the weight version that generated it.
    """

    prompt_id: str
    sample: int
    prompt_ids: Int32
    response_ids: Int32
    logprobs: Float32
    finish_reason: FinishReason
    version: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's answer: a score, or an error with its kind. An error never becomes a score.

    Attributes:
        score: the reward, or None where `error` is set.
        error: kind of failure of the verifier itself (`timeout`, `crash`, `infrastructure`, ...), or None.
        detail: one line for people.
        seconds: how long the verification took.
    """

    score: float | None
    error: str | None = None
    detail: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        assert (self.score is None) != (self.error is None), "a verdict is a score or an error, never both"


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch: documents laid end to end (THD), labels already shifted within each document.

    Attributes:
        input_ids: [T].
        labels: [T], the next token of the same document (0 where there is none).
        loss_mask: [T] float32, 1 where the label is trained.
        position_ids: [T], restarting at 0 in each document.
        cu_seqlens: [documents + 1] int32, document boundaries, cu_seqlens[-1] == T.
        extras: further [T] float32 arrays aligned with `labels` (advantages, behaviour_logprobs, ...).
    """

    input_ids: Int64
    labels: Int64
    loss_mask: Float32
    position_ids: Int64
    cu_seqlens: Int32
    extras: Mapping[str, Float32] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Tokens in the pack, padding included."""
        return int(self.input_ids.shape[0])


class BatchSource(Protocol):
    """Where a training step's micro-batches come from; picklable, opened lazily on each rank."""

    def micro_batches(self, step: int, dp_rank: int, dp_size: int) -> list[PackedBatch]:
        """Return this data-parallel rank's micro-batches of a step: as many on every rank, in a fixed order."""
        ...
