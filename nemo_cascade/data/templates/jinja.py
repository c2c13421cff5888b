"""Any HF chat template, masked by construction, or refused.

A Jinja template says what a conversation looks like, not which of it a model writes. That is proven here: a reply is
what the whole conversation has behind the prompt, up to and with the token that ends the turn; the prompt, with
`add_generation_prompt`, has to be an exact prefix of the whole, in text and in tokens. A template with
`{% generation %}` marks its replies itself; then the marks have to be just what that proof finds. What can't be proven
on probe conversations is refused when the template is loaded, and the conversations of a set are proven one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from blake3 import blake3

from nemo_cascade.data.templates.base import Segment, Template
from nemo_cascade.data.templates.turns import Mode, Tools, Turn, read_turns, unroll
from nemo_cascade.errors import TemplateError

# What a template's own code may raise on a conversation that it wasn't written for.
_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SYSTEM = [{"role": "system", "content": "Be brief."}]
_PROBE = [
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "It is four."},
    {"role": "user", "content": "And three and three?"},
    {"role": "assistant", "content": "That is six."},
]
_THOUGHT = "adding up slowly"
_TOOL = {"name": "look_up", "description": "Look up a word.", "parameters": {"type": "object", "properties": {}}}
_TOOL_PROBE = [
    {"role": "user", "content": "Which word?"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "look_up", "arguments": {"word": "oak"}}]},
    {"role": "tool", "content": "a tree"},
    {"role": "assistant", "content": "It is a tree."},
]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a Jinja template needs of its tokenizer.

    Attributes:
        special: texts of its special tokens (the ones that may end a turn).
        named: `bos_token`, `eos_token` and so on, for the template to write.
        encode: text -> ids, nothing added.
    """

    special: frozenset[str]
    encode: Any
    named: Mapping[str, str] = field(default_factory=dict)


class JinjaTemplate(Template):
    """An HF chat template.

    Args:
        text: the template.
        tokens: of the tokenizer it belongs to.

    Raises:
        TemplateError: it can't be masked; names every reason that was found.
    """

    name = "jinja"

    def __init__(self, text: str, tokens: Tokens) -> None:
        self.jinja, self._tokens = text, tokens
        named = "".join(f"{name}={value}" for name, value in sorted(tokens.named.items()))
        self.key = f"jinja-{blake3((text + named).encode()).hexdigest()}"
        self.control = tuple(sorted(tokens.special))
        self._marked = _GENERATION.search(text) is not None
        self._thoughts_inline = self._hides_thoughts = self._rewrites = False
        self._takes_tools = True
        self.turn_end = self._find_turn_end()
        self._learn_habits()
        self._prove()

    def _parts(self, turns: Sequence[Turn]) -> list[Sequence[Turn]]:
        return unroll(turns, always=self._rewrites) if self._hides_thoughts or self._rewrites else [turns]

    def _segments(self, turns: Sequence[Turn], mode: Mode | None, tools: Tools) -> tuple[list[Segment], list[str]]:
        if not self._takes_tools and (tools or any(t.calls or t.role == "tool" for t in turns)):
            return [], ["the chat template doesn't write tools, calls and results"]
        asked = turns[-1].role != "assistant"
        thinks = _asked_mode(turns, mode) != "no_think" if asked else turns[-1].reasoning is not None
        try:
            whole = self._write(turns, tools, thinks=thinks, prompt=asked)
            spans, unproven = self._spans(whole, turns, tools)
        except _REFUSALS as error:
            return [], [f"the chat template refuses it: {' '.join(str(error).split())}"]
        problems = [f"turn {i} (assistant) {why}" for i, why in unproven.items() if turns[i].trained and not asked]
        if problems:
            return [], problems
        segments, end = [], 0
        for i, (begin, stop) in sorted(spans.items()):
            segments += [Segment(whole[end:begin], False), Segment(whole[begin:stop], turns[i].trained)]
            end = stop
        # Behind the last reply nothing is left to learn from; behind a question stands the opening of the answer.
        return ([*segments, Segment(whole[end:], False)] if asked else segments), []

    def _spans(
        self, whole: str, turns: Sequence[Turn], tools: Tools
    ) -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
        """Find the replies in a conversation's text: begin and end of each, or why it isn't to be found."""
        spans, unproven = {}, {}
        replies = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        marks = self._marks(turns, tools) if self._marked else None
        if marks is not None and len(marks) != len(replies):
            return {}, dict.fromkeys(replies, f"is one of {len(replies)} replies, of which it marks {len(marks)}")
        for number, i in enumerate(replies):
            begin, written = marks[number] if marks is not None else self._proven(turns[: i + 1], tools)
            end = written.rfind(self.turn_end)
            stop = begin + end + len(self.turn_end)
            if begin < 0:
                unproven[i] = f"doesn't begin where its prompt ends: {written!r}"
            elif end < 0 or written[end + len(self.turn_end) :].strip():
                unproven[i] = f"isn't ended by {self.turn_end}: {written[-40:]!r}"
            elif whole[begin:stop] != written[: stop - begin]:
                unproven[i] = "is written in another way once other turns follow"
            elif any(text.strip() not in whole[begin:stop] for text in (turns[i].content, turns[i].reasoning or "")):
                unproven[i] = "isn't written as it is given"
            else:
                spans[i] = (begin, stop)
        return spans, unproven

    def _proven(self, turns: Sequence[Turn], tools: Tools) -> tuple[int, str]:
        """Return where the last reply begins, and it with all behind it; (-1, prompt's end) where that's not so."""
        thinks = turns[-1].reasoning is not None
        prompt = self._write(turns[:-1], tools, thinks=thinks, prompt=True)
        whole = self._write(turns, tools, thinks=thinks)
        return (len(prompt), whole[len(prompt) :]) if whole.startswith(prompt) else (-1, prompt[-40:])

    def _marks(self, turns: Sequence[Turn], tools: Tools) -> list[tuple[int, str]]:
        """Return begin and text of every stretch that the template marks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            [self._messages(turns)],
            tools=[dict(t) for t in tools] or None,
            chat_template=self.jinja,
            return_assistant_tokens_mask=True,
            enable_thinking=turns[-1].reasoning is not None,
            **self._tokens.named,
        )
        return [(begin, texts[0][begin:end]) for begin, end in spans[0]]

    def _write(self, turns: Sequence[Turn], tools: Tools, *, thinks: bool, prompt: bool = False) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, _ = render_jinja_template(
            [self._messages(turns)],
            tools=[dict(t) for t in tools] or None,
            chat_template=self.jinja,
            add_generation_prompt=prompt,
            enable_thinking=thinks,
            **self._tokens.named,
        )
        return str(texts[0])

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        messages = []
        for turn in turns:
            message: dict[str, Any] = {"role": turn.role, "content": turn.content}
            if turn.reasoning is not None and self._thoughts_inline:
                message["content"] = f"<think>\n{turn.reasoning}\n</think>\n{turn.content}"
            elif turn.reasoning is not None:
                message["reasoning_content"] = turn.reasoning
            if turn.calls:
                calls = [{"name": c.name, "arguments": dict(c.arguments)} for c in turn.calls]
                message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
            messages.append(message)
        return messages

    def _find_turn_end(self) -> str:
        """Find the token that ends a reply: the model's only way to stop."""
        turns = read_turns(_PROBE[:2], ())[0]
        try:
            begin, written = self._proven(turns, [])
        except _REFUSALS as error:
            raise self._refusal(f"it fails on a question and an answer: {error}") from error
        if begin < 0:
            raise self._refusal(f"an answer doesn't begin where its prompt ends, {written!r}")
        _, found, behind = written.partition(turns[1].content)
        if not found:
            raise self._refusal(f"an answer isn't written as it is given: {written!r}")
        ends = [token for token in self._tokens.special if behind.lstrip().startswith(token)]
        if not ends:
            raise self._refusal(f"an answer is ended by no special token: {behind!r} follows it")
        return max(ends, key=len)

    def _learn_habits(self) -> None:
        """Find out how it takes thoughts, what it makes of earlier replies, whether it writes tools."""
        plain = read_turns(_PROBE, ())[0]
        try:
            whole, first = (self._write(turns, [], thinks=False) for turns in (plain, plain[:2]))
            self._rewrites = not whole.startswith(first[: first.rfind(self.turn_end)])
        except _REFUSALS:
            pass  # one question at a time, then
        thinking = [{**m, "reasoning_content": _THOUGHT} if m["role"] == "assistant" else m for m in _PROBE]
        turns = read_turns(thinking, ())[0]
        self._thoughts_inline = _THOUGHT not in self._write(turns[:2], [], thinks=True)
        self._hides_thoughts = self._write(turns, [], thinks=True).count(_THOUGHT) == 1
        turns = read_turns(_TOOL_PROBE, ())[0]
        try:
            text = self._write(turns, [_TOOL], thinks=False)
            self._takes_tools = all(word in text for word in ("Look up a word.", "oak", "a tree"))
        except _REFUSALS:
            self._takes_tools = False

    def _prove(self) -> None:
        """Prove the mask on conversations of every kind that the template takes."""
        thinking = [{**m, "reasoning_content": _THOUGHT} if m["role"] == "assistant" else m for m in _PROBE[:2]]
        may_fail = [thinking, _TOOL_PROBE]  # then rows of that kind are refused one by one
        probes = [(_PROBE, []), (_SYSTEM + _PROBE, []), (thinking, []), *([(_TOOL_PROBE, [_TOOL])] * self._takes_tools)]
        for messages, tools in probes:
            for turns in self._parts(read_turns(messages, ())[0]):
                try:
                    whole = self._write(turns, tools, thinks=turns[-1].reasoning is not None)
                except _REFUSALS:
                    continue  # no system turn, say: rows that have one are refused one by one
                segments, problems = self._segments(turns, None, tools)
                if problems and messages in may_fail:
                    continue
                if problems:
                    raise self._refusal("; ".join(problems))
                self._prove_marks(turns, tools)
                pieces = [i for s in segments for i in self._tokens.encode(s.text)]
                if pieces != list(self._tokens.encode(whole))[: len(pieces)]:
                    raise self._refusal(f"prompt and reply meet inside a token, at {segments[0].text[-20:]!r}")

    def _prove_marks(self, turns: Sequence[Turn], tools: Tools) -> None:
        """Prove that marked stretches begin where the prompts end."""
        if not self._marked:
            return
        replies = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        for i, (begin, text) in zip(replies, self._marks(turns, tools), strict=False):
            expected, written = self._proven(turns[: i + 1], tools)
            if begin != expected:
                raise self._refusal(
                    f"{{% generation %}} marks {text[:40]!r}, the prompt's continuation is {written[:40]!r}"
                )

    def _refusal(self, why: str) -> TemplateError:
        return TemplateError(
            f"the chat template can't be masked: {why}",
            value=f"{self.jinja[:60]!r}...",
            limit="replies that follow `add_generation_prompt` word for word and end with a special token",
            mend="model.chat_template=cascade1 (or cascade2, nano3, chatml, or your own .jinja file)",
        )


def _asked_mode(turns: Sequence[Turn], mode: Mode | None) -> Mode | None:
    return next((t.mode for t in reversed(turns) if t.role == "user" and t.mode), mode)
