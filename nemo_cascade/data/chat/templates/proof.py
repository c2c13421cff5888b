"""Prove where a template writes a reply: behind its prompt, up to and with the token that ends it.

The prompt, with `add_generation_prompt`, has to be an exact prefix of the text that has the reply as its last turn;
what stands there behind it is the reply. What a template writes behind the token that ends a reply (a newline, the end
of the text, the header of the next turn) is nothing that the model should learn.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from nemo_cascade.data.chat.templates.chatml import to_json
from nemo_cascade.data.chat.templates.render import REFUSALS, Renderer
from nemo_cascade.data.chat.templates.turns import THINK_CLOSE, THINK_OPEN, Tools, Turn


@dataclass(frozen=True, slots=True)
class Ending:
    """How a template ends a reply.

    Attributes:
        token: the last that the model writes.
        behind: what the template writes behind it where nothing follows; white space around it doesn't count.
    """

    token: str
    behind: str = ""

    def stop(self, written: str) -> int | None:
        """Return where a reply ends in the text that it begins; None where it isn't ended so."""
        body = written.rstrip()
        if not body.endswith(self.behind.strip()):
            return None
        body = body.removesuffix(self.behind.strip()).rstrip()
        return len(body) if body.endswith(self.token) else None


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as the template writes it while it is the last turn.

    Attributes:
        begin: where it begins: the length of its prompt.
        prompt: hash of its prompt.
        text: the reply with the token that ends it.
    """

    begin: int
    prompt: bytes
    text: str

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.begin + len(self.text)

    def stands_in(self, whole: str) -> bool:
        """Whether a text begins with the prompt and the reply."""
        return whole.startswith(self.text, self.begin) and self.prompt == blake3(whole[: self.begin].encode()).digest()


class Proofs:
    """The replies of one conversation, each proven once.

    Args:
        renderer: of the template.
        endings: how it ends a reply, by whether that calls tools.
        control: the tokens that no message holds.
        turns: the conversation.
        tools: of it.
    """

    def __init__(
        self,
        renderer: Renderer,
        endings: Mapping[bool, Ending],
        control: Sequence[str],
        turns: Sequence[Turn],
        tools: Tools,
    ) -> None:
        self._renderer, self._endings, self._turns, self._tools = renderer, endings, turns, tools
        self._control = control
        self._found: dict[int, Reply | str] = {}

    def reply(self, i: int, whole: str | None = None) -> Reply | str:
        """Return the reply that is turn i, or why it can't be proven.

        Args:
            i: number of an assistant's turn.
            whole: the text up to and with that turn, where it is known.
        """
        if i not in self._found:
            try:
                self._found[i] = self._prove(i, whole)
            except REFUSALS as error:
                self._found[i] = f"is refused by the chat template: {' '.join(str(error).split())}"
        return self._found[i]

    def located(self, i: int, whole: str, header: str, start: int, end: int) -> Reply | None:
        """Find the reply that is turn i in a text by what surrounds it; None where it isn't to be found so.

        Args:
            i: number of an assistant's turn.
            whole: the text.
            header: what stands in front of the reply.
            start: where the reply before it ends.
            end: where a reply behind it begins.
        """
        turn = self._turns[i]
        begin = whole.find(header, start, end)
        stop = whole.find(self._endings[bool(turn.calls)].token, begin + len(header), end)
        if begin < 0 or stop < 0:
            return None
        begin, stop = begin + len(header), stop + len(self._endings[bool(turn.calls)].token)
        text = whole[begin:stop]
        problem = _content_problem(turn, text, header, self._renderer.form.thought is None)
        return None if problem else Reply(begin, b"", text)

    def holds_control(self, text: str) -> bool:
        """Whether a text holds a control token."""
        return any(token in text for token in self._control)

    def _prove(self, i: int, whole: str | None) -> Reply | str:
        turn = self._turns[i]
        thinks = turn.reasoning is not None
        prompt = self._renderer.write(self._turns[:i], self._tools, thinks=thinks, prompt=True)
        whole = whole or self._renderer.write(self._turns[: i + 1], self._tools, thinks=thinks)
        if not whole.startswith(prompt):
            return f"doesn't begin where its prompt ends: {prompt[-40:]!r}"
        written, ending = whole[len(prompt) :], self._endings[bool(turn.calls)]
        stop = ending.stop(written)
        if stop is None:
            return f"isn't ended by {ending.token}: {written[-40:]!r}"
        text = written[:stop]
        if problem := _content_problem(turn, text, prompt, self._renderer.form.thought is None):
            return problem
        return Reply(len(prompt), blake3(prompt.encode()).digest(), text)


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends inside a think block."""
    return prompt.rstrip().endswith(THINK_OPEN)


def closes_thought(prompt: str) -> bool:
    """Whether a prompt ends behind a think block: the reply can't think."""
    return prompt.rstrip().endswith(THINK_CLOSE)


def unwritten(whole: str, turns: Sequence[Turn]) -> str | None:
    """Say what of a conversation its text lacks, replies aside; None where it lacks nothing."""
    for i, turn in enumerate(turns):
        if turn.role != "assistant" and not is_in(turn.content, whole):
            return f"turn {i} ({turn.role}) isn't written as it is given"
    return None


def is_in(given: str, text: str) -> bool:
    """Whether a text holds what was given, as it is or as JSON; white space around it doesn't count."""
    return given.strip() in text or to_json(given.strip())[1:-1] in text


def _content_problem(turn: Turn, text: str, prompt: str, inline: bool) -> str | None:
    """Say what of a turn a reply lacks, behind a prompt or its end; None where it says all of it, and thinks so."""
    if opens_thought(prompt) and turn.reasoning is None:
        return "doesn't think, though its prompt opens a think block"
    if closes_thought(prompt) and turn.reasoning is not None:
        return "thinks, though its prompt closes the think block"
    if turn.content.strip() not in text:
        return f"isn't written as it is given: {text[-60:]!r}"
    if turn.reasoning is not None:
        if turn.reasoning.strip() not in text:
            return "has a thought that isn't written"
        # A template that writes a block of its own in front of the one in the content.
        opened = text.count(THINK_OPEN) - turn.reasoning.count(THINK_OPEN) + opens_thought(prompt)
        if inline and (opened, text.count(THINK_CLOSE)) != (1, 1):
            return "has a thought that isn't written in a think block of its own"
    if lost := [call.name for call in turn.calls if not is_in(call.name, text)]:
        return f"calls {lost[0]}, whose name isn't written"
    if lost := [name for call in turn.calls for name in call.arguments if not is_in(str(name), text)]:
        return f"calls a tool with {lost[0]}, which isn't written"
    return None


def find_ending(
    written: str, content: str, followed: str | None, special: frozenset[str], eos: str = ""
) -> Ending | None:
    """Find the token that ends an answer: the model's only way to stop.

    Of several in a row it is the tokenizer's end of a text, or the last that stands behind every answer; of those that
    only stand behind the last answer, the first.

    Args:
        written: an answer, and all that the template writes behind it where nothing follows.
        content: what was said in it.
        followed: the same where another turn follows, if the template can write that.
        special: the tokens that may end it.
        eos: the tokenizer's `eos_token`.
    """
    tokens = _any_of(special)
    last, other = (text.partition(content)[2] for text in (written, followed or ""))
    runs = [re.compile(rf"\s*((?:{tokens})*)").match(text) for text in (last, other)]
    row, others = (re.findall(tokens, run[1]) if run else [] for run in runs)
    if not row:
        return None
    shared = [a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(row, others, strict=False))]
    if eos in row:
        ends = row[: row.index(eos) + 1]
    elif len(row) > len(shared) > 1 and len(others) > len(shared):
        ends = shared[:-1]  # the last of them opens the next turn: behind the last answer, the one to come
    else:
        ends = shared or row[:1]
    stop = last.index("".join(ends)) + len("".join(ends))
    return Ending(ends[-1], last[stop:])


def find_last(written: str, answer: Ending, special: frozenset[str]) -> Ending:
    """Find the token that ends a reply that calls tools: that of an answer, or else the last that is written."""
    begin = written.rfind(answer.token)
    behind = written[begin + len(answer.token) :]
    if answer.stop(written) is not None:
        return answer
    if begin >= 0 and not re.sub(_any_of(special), "", behind).strip():
        return Ending(answer.token, behind)
    found = [token for token in special if written.rstrip().endswith(token)]
    return Ending(max(found, key=len)) if found else answer


def _any_of(tokens: frozenset[str]) -> str:
    """Return an expression that matches any of some texts, the longest first; none at all where there are none."""
    return "|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True) if t) or r"(?!)"
