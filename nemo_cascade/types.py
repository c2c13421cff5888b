"""The few types that every layer shares. Token ids are the currency; text is derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
RoutedExperts = NDArray[np.int16]
"""Experts that tokens went to: [tokens, layers with experts, experts of a token], -1 where nobody has chosen any."""
Number = TypeVar("Number", np.uint8, np.int32)
Place = tuple[str, int]
"""A task's id, and which of its samples."""


class FinishReason(StrEnum):
    """Why a rollout ended. LENGTH means truncated: the token limit came before the end-of-turn token."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class EnvironmentUse:
    """An environment as a task uses it.

    Attributes:
        name: in the registry, or where a user's own is (`my_file.py:Name`).
        settings: what its constructor takes by name.
        max_turns: turns of the policy, at most.
        step_deadline_s: of one step; None: as long as a verdict may take.
        deadline_s: of a whole sample.
    """

    name: str = "single_turn"
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_turns: int = 1
    step_deadline_s: float | None = None
    deadline_s: float = 86400.0


ONE_TURN = EnvironmentUse()


@dataclass(frozen=True, slots=True)
class Task:
    """What the policy is asked, with what a verifier or an environment needs to judge it.

    Attributes:
        task_id: stable and unique in the run, `<set>/<row>`.
        domain: the domain that is scored (`math`, `instruction`, ...).
        verifier: name of the verifier in the reward registry.
        token_ids: the rendered prompt, shape [prompt_tokens].
        record: the source row (answer, tests, constraints, ...), JSON-like.
        settings: of the verifier, for this task.
        environment: what answers the policy, and how often it may be asked.
    """

    task_id: str
    domain: str
    verifier: str
    token_ids: Int32
    record: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: EnvironmentUse = ONE_TURN


@dataclass(frozen=True, slots=True)
class Question:
    """What an engine is asked: tokens to go on from, and how many answers.

    Attributes:
        task_id: whose these are.
        token_ids: [n], all that was said so far.
        samples: numbers of the answers, each drawn with a seed of its own.
    """

    task_id: str
    token_ids: Int32
    samples: range


@dataclass(frozen=True, slots=True)
class Turn:
    """What the policy said in one go: [begin, end) of a trajectory.

    Attributes:
        begin, end: its tokens.
        version: of the weights that sampled it, its end where they changed under it.
        forced: [begin, end) of those among its tokens that an engine put there, as the end of a thought that had
            reached its budget; empty: all were sampled.
        swaps: (end, version) of each stretch that earlier weights sampled, in order; empty: one version sampled all.
    """

    begin: int
    end: int
    version: int
    forced: tuple[int, int] = (0, 0)
    swaps: tuple[tuple[int, int], ...] = ()

    @property
    def oldest(self) -> int:
        """The oldest weight version that sampled a token of it."""
        return min([self.version, *(version for _, version in self.swaps)])

    @property
    def sampled(self) -> tuple[tuple[int, int], ...]:
        """[begin, end) of each stretch that the policy sampled."""
        begin, end = self.forced
        whole = ((self.begin, self.end),)
        return ((self.begin, begin), (end, self.end)) if begin < end else whole

    @property
    def num_sampled(self) -> int:
        """Tokens that the policy sampled."""
        return sum(end - begin for begin, end in self.sampled)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All that was said about a task once, token by token as it was sampled or given, never re-tokenised.

    What the policy sampled are its turns, but for what an engine forced; all else (the prompt, an environment's
    observations) it was given. Which token is trained and which version sampled it follow from the turns: they travel
    as these few numbers, and become arrays where they are needed.

    Attributes:
        task_id: what it is about.
        sample: 0..G-1 within the task's group.
        token_ids: [n].
        turns: what was sampled, in order; at least one. Each but the last ends with an end-of-turn token.
        sampled_logprobs: [sampled tokens], log-probability of each under the sampling distribution.
        finish_reason: of the last turn; LENGTH also where the next one had no room, or one too many was due.
        earlier: what was said before a chat template wrote the conversation anew without its thoughts, each a sample
            of its own; they have no earlier ones themselves.
        routed_experts: [n, layers with experts, experts of a token], which experts each token went to when the engine
            first computed it; -1 of a token that it never did, as the last one. None: the engine doesn't tell.
    """

    task_id: str
    sample: int
    token_ids: Int32
    turns: tuple[Turn, ...]
    sampled_logprobs: Float32
    finish_reason: FinishReason
    earlier: tuple[Trajectory, ...] = ()
    routed_experts: RoutedExperts | None = None

    @property
    def parts(self) -> tuple[Trajectory, ...]:
        """All that was said, in the pieces that are trained each on its own: nearly always one."""
        return (*self.earlier, self)

    @property
    def place(self) -> Place:
        """Which of the task's samples it is."""
        return self.task_id, self.sample

    @property
    def trained(self) -> NDArray[np.uint8]:
        """[n], 1 where the policy sampled the token."""
        return self._on_turns(np.uint8, 0, [1] * len(self.turns))

    @property
    def versions(self) -> Int32:
        """[n], the weight version that sampled each token; -1 where it was given."""
        aligned = self._on_turns(np.int32, -1, [turn.version for turn in self.turns])
        for turn in self.turns:
            begin = turn.begin
            for end, version in turn.swaps:
                stretch = aligned[begin:end]
                stretch[stretch >= 0] = version
                begin = end
        return aligned

    @property
    def logprobs(self) -> Float32:
        """[n], of each sampled token; 0 where it was given."""
        aligned = np.zeros(len(self.token_ids), np.float32)
        aligned[self.trained > 0] = self.sampled_logprobs
        return aligned

    @property
    def num_sampled(self) -> int:
        """Tokens that the policy sampled, in all parts."""
        return sum(turn.num_sampled for part in self.parts for turn in part.turns)

    @property
    def num_turns(self) -> int:
        """Turns of the policy, in all parts."""
        return sum(len(part.turns) for part in self.parts)

    @property
    def response_ids(self) -> Int32:
        """The last turn's tokens, forced ones and the end-of-turn token, if it was sampled, among them."""
        return self.token_ids[self.turns[-1].begin : self.turns[-1].end]

    @property
    def context_ids(self) -> Int32:
        """What the last turn answers: everything before it."""
        return self.token_ids[: self.turns[-1].begin]

    def followed_by(self, answer: Trajectory) -> Trajectory:
        """Return this one with the next turn, an engine's answer to all of it and what was given behind it."""
        seen = len(self.token_ids)
        assert np.array_equal(answer.token_ids[:seen], self.token_ids), "what was said can't change"
        logprobs = np.concatenate([self.sampled_logprobs, answer.sampled_logprobs])
        return replace(
            answer,
            turns=self.turns + answer.turns,
            sampled_logprobs=logprobs,
            earlier=self.earlier,
            routed_experts=first_routed(self.routed_experts, answer.routed_experts),
        )

    def _on_turns(self, dtype: type[Number], elsewhere: int, values: Sequence[int]) -> NDArray[Number]:
        aligned = np.full(len(self.token_ids), elsewhere, dtype)
        for turn, value in zip(self.turns, values, strict=True):
            for begin, end in turn.sampled:
                aligned[begin:end] = value
        return aligned


def first_routed(earlier: RoutedExperts | None, later: RoutedExperts | None) -> RoutedExperts | None:
    """Return the experts of a sequence that was computed twice, the second time farther: the first word on each token.

    What was sampled behind a token stands on the experts that it went to then.
    """
    if earlier is None or later is None:
        return None
    known = earlier[:, :1, :1] >= 0
    routed: RoutedExperts = later.copy()
    routed[: len(earlier)] = np.where(known, earlier, later[: len(earlier)])
    return routed


def first_turn(
    task_id: str,
    sample: int,
    context: Int32,
    response: Int32,
    logprobs: Float32,
    reason: FinishReason,
    version: int,
    forced: tuple[int, int] = (0, 0),
    routed_experts: RoutedExperts | None = None,
    swaps: Sequence[tuple[int, int]] = (),
) -> Trajectory:
    """Return the trajectory of one answer to tokens that were given; `forced` and `swaps` count from its first one."""
    begin, end = (len(context) + place for place in forced) if forced[0] < forced[1] else (0, 0)
    earlier = tuple((len(context) + place, earlier) for place, earlier in swaps)
    turn = Turn(len(context), len(context) + len(response), version, (begin, end), earlier)
    ids = np.concatenate([context, response]).astype(np.int32)
    found = np.asarray(logprobs, np.float32)
    return Trajectory(task_id, sample, ids, (turn,), found, reason, routed_experts=routed_experts)


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


Sample = tuple[Task, Trajectory]
"""What is judged."""
Judged = tuple[Place, Verdict]
"""What a judge says of it."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Documents laid end to end (THD): one of them is a training sample, several are a micro-batch.

    Attributes:
        input_ids: [T].
        loss_mask: [T] float32, 1 where the next token of the same document is trained.
        cu_seqlens: [documents + 1] int32, document boundaries, cu_seqlens[-1] == T.
        extras: further [T] float32 arrays aligned with `labels` (advantages, behaviour_logprobs, ...).
        routed_experts: [T, layers with experts, experts of a token], which experts the model sends each of `input_ids`
            to, whatever its router would choose; -1: what it chooses. None: its choice for all.
        borrowed: [documents] int32, how many first tokens of each document aren't laid out, for they are those of the
            nearest document before it that borrows none. None: all are laid out.
    """

    input_ids: Int32
    loss_mask: Float32
    cu_seqlens: Int32
    extras: Mapping[str, Float32] = field(default_factory=dict)
    routed_experts: RoutedExperts | None = None
    borrowed: Int32 | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens in the pack, padding included."""
        return len(self.input_ids)

    @property
    def labels(self) -> Int32:
        """[T], the next token of the same document, 0 where there is none."""
        labels = np.zeros_like(self.input_ids)
        labels[:-1] = self.input_ids[1:]
        labels[self.cu_seqlens[1:] - 1] = 0
        return labels


class BatchSource(Protocol):
    """Where a training step's micro-batches come from; picklable, opened lazily on each rank."""

    def micro_batches(self, step: int, dp_rank: int, dp_size: int) -> list[PackedBatch]:
        """Return this data-parallel rank's micro-batches of a step: as many on every rank, in a fixed order."""
