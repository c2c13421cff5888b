"""An answer that is asked for in stretches, so that its thought ends at a budget (arXiv 2508.14444).

    1  at most `thinking_budget` tokens
    2  still thinking: at most `thinking_overrun` more, up to a token that holds the end of a line
    3  still thinking: the thought's closing tag is put there, as the chat template writes it, given and not sampled
    4  what is left of `max_tokens`

An answer that ends or has closed its thought by then goes on as if nothing had been; so does one that never opened one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.templates.turns import THINK_CLOSE, THINK_OPEN
from nemo_cascade.data.chat.tokenizer import ChatTokenizer, load_tokenizer
from nemo_cascade.types import (
    FinishReason,
    Float32,
    Int32,
    Question,
    RoutedExperts,
    Trajectory,
    first_routed,
    first_turn,
)


@dataclass(frozen=True)
class Draft:
    """An answer as far as it goes.

    Attributes:
        key: what the engine knows it by.
        question: what is answered.
        sample: which of its answers.
        seed: of its generation.
        token_ids: [n], what was sampled and forced.
        logprobs: [sampled], of the sampled ones.
        forced: [begin, end) of the forced ones; empty: none.
        stretches: how many were asked for.
        reason: why the last of them ended.
        routed_experts: of the question's and these tokens, where the engine tells them, but for forced ones at the end.
        swaps: (end, version) of what was sampled before the engine was taken away from it; what is behind the last of
            them the present weights sample.
        times_taken_back: how often that was.
    """

    key: str
    question: Question
    sample: int
    seed: int
    token_ids: Int32 = field(default_factory=lambda: np.zeros(0, np.int32))
    logprobs: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    forced: tuple[int, int] = (0, 0)
    stretches: int = 0
    reason: FinishReason = FinishReason.LENGTH
    routed_experts: RoutedExperts | None = None
    swaps: tuple[tuple[int, int], ...] = ()
    times_taken_back: int = 0

    @property
    def context(self) -> list[int]:
        """What the next stretch goes on from."""
        return [*self.question.token_ids.tolist(), *self.token_ids.tolist()]

    def followed_by(
        self, ids: Int32, logprobs: Float32, reason: FinishReason, routed_experts: RoutedExperts | None = None
    ) -> Draft:
        """Return the draft with one more stretch.

        Args:
            ids: [n] tokens.
            logprobs: [n].
            reason: why it ended.
            routed_experts: of all that was said by now but the last token, which the engine has not read.
        """
        token_ids, found = np.concatenate([self.token_ids, ids]), np.concatenate([self.logprobs, logprobs])
        if routed_experts is not None:
            routed_experts = np.pad(routed_experts, ((0, 1), (0, 0), (0, 0)), constant_values=-1)
            if self.routed_experts is not None:
                routed_experts = first_routed(self.routed_experts, routed_experts)
        return replace(self, token_ids=token_ids, logprobs=found, reason=reason, routed_experts=routed_experts)

    def trajectory(self, version: int) -> Trajectory:
        """Return the whole answer."""
        return first_turn(
            self.question.task_id,
            self.sample,
            self.question.token_ids,
            self.token_ids,
            self.logprobs,
            self.reason,
            version,
            self.forced,
            self.routed_experts,
            [(end, earlier) for end, earlier in self.swaps if earlier != version],
        )


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is asked for next.

    Attributes:
        draft: what it goes on from.
        max_tokens: at most.
        stops: tokens that end it, beside those that end an answer.
        request: the engine's own name of it, once it is asked.
    """

    draft: Draft
    max_tokens: int
    stops: Sequence[int] = ()
    request: str = ""

    def taken_back(self, ids: Int32, logprobs: Float32, version: int) -> Stretch:
        """Return what is left of it to ask for.

        Args:
            ids: [n], what was sampled of it so far; fewer than `max_tokens`.
            logprobs: [n].
            version: of the weights that sampled them.
        """
        draft = self.draft.followed_by(ids, logprobs, self.draft.reason)
        swaps = (*draft.swaps, (len(draft.token_ids), version)) if len(ids) else draft.swaps
        draft = replace(draft, swaps=swaps, times_taken_back=draft.times_taken_back + 1)
        return replace(self, draft=draft, max_tokens=self.max_tokens - len(ids))

    @property
    def key(self) -> str:
        """What the engine knows it by."""
        return self._numbered(self.draft.key)

    @property
    def name(self) -> str:
        """What people know the answer by."""
        return f"{self.draft.question.task_id} sample {self.draft.sample}"

    @property
    def place(self) -> str:
        """The answer's place, as the seed of its stretch knows it; the first stretch's is the answer's own."""
        return self._numbered(self.draft.question.task_id)

    def _numbered(self, name: str) -> str:
        name = name if self.draft.stretches == 1 else f"{name}+{self.draft.stretches - 1}"
        # What goes on draws by a seed of its own: the old one's first numbers are used up.
        return name if not self.draft.times_taken_back else f"{name}~{self.draft.times_taken_back}"


class Thoughts:
    """Which stretches an answer is asked for in.

    Args:
        sampling: the answers' settings.
        folder: HF folder of the model, whose tokenizer is read where there is a budget.
    """

    def __init__(self, sampling: SamplingConfig, folder: Path) -> None:
        self.sampling = sampling
        self._tokenizer: ChatTokenizer | None = None
        self._line_ends: list[int] = []
        if sampling.thinking_budget is not None:
            self._tokenizer = load_tokenizer(folder)
            if sampling.thinking_overrun:
                every = range(self._tokenizer.vocab_size)
                self._line_ends = [token for token in every if "\n" in self._tokenizer.decode([token])]

    def first(self, draft: Draft) -> Stretch:
        """Return the first stretch of an answer."""
        budget = self.sampling.thinking_budget
        return _asked(draft, min(budget or self.sampling.max_tokens, self.sampling.max_tokens))

    def next(self, draft: Draft, ends: Sequence[int]) -> Stretch | Draft:
        """Return what is asked for next, or the draft where it is done.

        Args:
            draft: with the stretch that just ended.
            ends: tokens that end an answer.
        """
        left = self.sampling.max_tokens - len(draft.token_ids)
        if draft.reason is FinishReason.ABORT or int(draft.token_ids[-1]) in ends:
            return draft
        if left <= 0:
            return replace(draft, reason=FinishReason.LENGTH)
        if draft.stretches > 2 or not self._thinks(draft):
            # The overrun is for thoughts alone; what is said behind one has no lines to end at.
            return _asked(replace(draft, stretches=max(draft.stretches, 2)), left)
        if draft.stretches == 1 and self.sampling.thinking_overrun:
            return _asked(draft, min(self.sampling.thinking_overrun, left), self._line_ends)
        closed = self._closed(replace(draft, stretches=2))
        left -= len(closed.token_ids) - len(draft.token_ids)
        return _asked(closed, left) if left > 0 else replace(draft, reason=FinishReason.LENGTH)

    def _text(self, draft: Draft) -> str:
        assert self._tokenizer is not None, "only a budget asks for a second stretch"
        return response_text(self._tokenizer, draft.token_ids, draft.question.token_ids)

    def _thinks(self, draft: Draft) -> bool:
        text = self._text(draft)
        return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)

    def _closed(self, draft: Draft) -> Draft:
        assert self._tokenizer is not None, "only a budget closes a thought"
        # The white space behind it is the model's to say: in its data a token may hold that and how the answer begins.
        closing = self._tokenizer.template.thought_end.rstrip()
        ids = self._tokenizer.encode(closing.lstrip("\n") if self._text(draft).endswith("\n") else closing)
        begin = len(draft.token_ids)
        return replace(draft, token_ids=np.concatenate([draft.token_ids, ids]), forced=(begin, begin + len(ids)))


def _asked(draft: Draft, max_tokens: int, stops: Sequence[int] = ()) -> Stretch:
    return Stretch(replace(draft, stretches=draft.stretches + 1), max_tokens, stops)
