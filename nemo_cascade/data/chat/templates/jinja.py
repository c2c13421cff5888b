"""Any HF chat template, masked by construction, or refused.

A Jinja template says what a conversation looks like, not which of it a model writes. That is proven here, reply by
reply (`proof`). A template with `{% generation %}` marks its replies itself; then the marks have to be just what that
proof finds.

Of a conversation only what is proven is trained. A reply that a template writes in another way once other turns follow
(a thought that is hidden, another token at its end, a system text that moves on to the last question) is proven in a
sample that ends with it: a conversation becomes one sample, or one per user's turn, or one per reply.

When a template is loaded, it has to write one question and its answer. Only a template that always opens a think block
may fail on an answer without a thought: then rows without thoughts are refused one by one, as is every conversation
that a template doesn't write as it is given.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from blake3 import blake3

from nemo_cascade.data.chat.templates.base import Segment, Template
from nemo_cascade.data.chat.templates.habits import EPISODE, TALK, THOUGHT, TOOL, Habits, learn
from nemo_cascade.data.chat.templates.proof import Proofs, Reply, closes_thought, opens_thought, unwritten
from nemo_cascade.data.chat.templates.render import GENERATION, REFUSALS, ClockRead, Renderer, Tokens
from nemo_cascade.data.chat.templates.spans import find_replies
from nemo_cascade.data.chat.templates.turns import THINK_CLOSE, THINK_OPEN, Mode, Tools, Turn, read_turns, unroll
from nemo_cascade.errors import TemplateError

_DICE = re.compile(r"\|\s*random\s*[-|%})]|\blipsum\s*\(")
# What a prompt writes of a reply: white space, the opening of a thought, or a thought that isn't thought.
_OPENED = re.compile(rf"\s+|{THINK_OPEN}|{THINK_CLOSE}")


class JinjaTemplate(Template):
    """An HF chat template.

    Args:
        text: the template.
        tokens: of the tokenizer it belongs to.

    Raises:
        TemplateError: it can't be masked; names the reason.
    """

    name = "jinja"

    def __init__(self, text: str, tokens: Tokens) -> None:
        self.jinja, self._tokens = text, tokens
        named = "".join(f"{name}={value}" for name, value in sorted(tokens.named.items()))
        self.key = f"jinja-2-{blake3(f'{text}{named}{tokens.date}'.encode()).hexdigest()}"
        self.control = tuple(sorted(tokens.special))
        self._marked = GENERATION.search(text) is not None
        self._torn: dict[tuple[bool, bool], str] = {}  # by whether a reply thinks, and whether it calls tools
        if _DICE.search(text):
            raise self._refusal("it writes something else each time (random, lipsum)")
        try:
            self._habits: Habits = learn(Renderer(text, tokens), tokens)
        except ClockRead as error:
            raise self._refusal(
                str(error), "model.chat_template_date=2026-11-29, say, is what it is told then"
            ) from error
        except ValueError as error:
            raise self._refusal(str(error)) from error
        self.turn_end = self._habits.endings[False].token
        self.ends = tuple(dict.fromkeys(ending.token for ending in self._habits.endings.values()))
        self._prove()

    def prompt(self, row: Mapping[str, Any], mode: Mode) -> tuple[list[Segment], list[str]]:
        """Render a row up to the reply (see `Template.prompt`); one whose prompt settles another mode is refused."""
        segments, problems = super().prompt(row, mode)
        if problems:
            return segments, problems
        text = segments[-1].text
        asked = _asked_mode(read_turns(row["messages"], ())[0], mode)
        if asked == "no_think" and opens_thought(text):
            return [], ["the chat template opens a think block where the reply shouldn't think"]
        if asked == "think" and closes_thought(text):
            return [], ["the chat template closes the think block where the reply should think"]
        return segments, []

    def _samples(self, turns: Sequence[Turn], mode: Mode | None, tools: Tools) -> tuple[list[list[Segment]], list[str]]:
        habits, proofs = self._habits, self._proofs(turns, tools)
        cut = habits.hides_thoughts or habits.rewrites
        rendered: list[list[Segment]] = []
        for part in unroll(turns, always=habits.rewrites) if cut else [turns]:
            samples, problems = self._cut(part, tools, proofs)
            rendered += samples
            if problems:
                return [], problems
        return rendered, []

    def _cut(self, part: Sequence[Turn], tools: Tools, proofs: Proofs) -> tuple[list[list[Segment]], list[str]]:
        """Render a conversation as one sample, or cut it until each of its trained replies is proven in one."""
        if not any(t.role == "assistant" and t.trained for t in part):
            return [], []
        segments, problems = self._sample(part, None, tools, proofs)
        if not problems:
            return [segments], []
        rendered: list[list[Segment]] = []
        finer = _finer(part)
        for piece in finer if len(finer) > 1 else []:
            samples, problems = self._cut(piece, tools, proofs)
            rendered += samples
            if problems:
                break
        return ([], problems) if problems else (rendered, [])

    def _segments(self, turns: Sequence[Turn], mode: Mode | None, tools: Tools) -> tuple[list[Segment], list[str]]:
        return self._sample(turns, mode, tools, self._proofs(turns, tools))

    def _proofs(self, turns: Sequence[Turn], tools: Tools) -> Proofs:
        return Proofs(self._habits.renderer, self._habits.endings, self.control, turns, tools)

    def _sample(
        self, turns: Sequence[Turn], mode: Mode | None, tools: Tools, proofs: Proofs
    ) -> tuple[list[Segment], list[str]]:
        """Render a conversation as it is. Returns segments, or problems: trained replies that it doesn't prove."""
        if problem := self._habits.tool_problem(turns, tools):
            return [], [problem]
        asked = turns[-1].role != "assistant"
        thinks = _asked_mode(turns, mode) != "no_think" if asked else turns[-1].reasoning is not None
        try:
            whole = self._habits.renderer.write(turns, tools, thinks=thinks, prompt=asked)
            found = find_replies(whole, turns, proofs)
            problems = [] if asked else self._unproven(found, turns)
            spans = {i: reply for i, reply in found.items() if isinstance(reply, Reply)}
            if not problems and self._marked and not asked:
                problems = self._mark_problems(turns, tools, spans, thinks=thinks)
        except REFUSALS as error:
            return [], [f"the chat template refuses it: {' '.join(str(error).split())}"]
        if not problems and (lacking := unwritten(whole, turns)):
            problems = [lacking]
        if problems:
            return [], problems
        segments, end = [], 0
        # Cut off whether trained or not: a prompt with this history then has the same tokens.
        for i, reply in spans.items():
            segments.append(Segment(whole[end : reply.begin], False))
            segments.append(Segment(reply.text, turns[i].trained))
            end = reply.stop
        # Behind the last reply nothing is left to learn from; behind a question stands the opening of the answer.
        return ([*segments, Segment(whole[end:], False)] if asked else segments), []

    def _unproven(self, found: Mapping[int, Reply | str], turns: Sequence[Turn]) -> list[str]:
        """Say what's wrong with the replies that are to be trained."""
        why = {i: reply if isinstance(reply, str) else self._torn.get(_kind(turns[i])) for i, reply in found.items()}
        return [f"turn {i} (assistant) {reason}" for i, reason in why.items() if reason and turns[i].trained]

    def _mark_problems(
        self, turns: Sequence[Turn], tools: Tools, spans: Mapping[int, Reply], *, thinks: bool
    ) -> list[str]:
        """Say which replies to be trained the template doesn't mark just as they were proven.

        A mark may begin with white space and with the think block that a prompt opened, and end with white space: none
        of that is trained. What else is marked belongs to other turns, or stands behind the end of the text.
        """
        marks = self._habits.renderer.marks(turns, tools, thinks=thinks)
        problems = []
        for i, reply in spans.items():
            if not turns[i].trained:
                continue
            found = [(begin, text) for begin, text in marks if begin < reply.stop and begin + len(text) > reply.begin]
            begin, marked = found[0] if found else (0, "")
            end = begin + len(marked)
            for next_begin, text in found[1:]:  # some mark a reply in pieces
                if next_begin == end:
                    marked, end = marked + text, end + len(text)
            given = marked[: max(0, reply.begin - begin)]
            if turns[i].content.strip() not in marked:
                problems.append(f"turn {i} (assistant) isn't written as it is given: it marks {marked[-40:]!r}")
            elif begin > reply.begin or _OPENED.sub("", given):
                problems.append(f"it marks {marked[:40]!r}, the prompt's continuation is {reply.text[:40]!r}")
            elif end < reply.stop or marked[reply.stop - begin :].strip():
                problems.append(f"turn {i} (assistant) isn't ended by {self.turn_end}: it marks {marked[-40:]!r}")
        return problems

    def _prove(self) -> None:
        """Prove a question and its answer, without a thought and with one, in text and in tokens; calls likewise."""
        for thought in (None, THOUGHT) if self._habits.enough else ():
            self._tried((EPISODE[0], replace(EPISODE[1], reasoning=thought)), [TOOL])
        plain = self._tried(TALK[:2], self._habits.tools)
        thinking = self._tried((TALK[0], replace(TALK[1], reasoning=THOUGHT)), self._habits.tools)
        if plain and (thinking or (False, False) in self._torn):
            raise self._refusal(plain)

    def _tried(self, turns: Sequence[Turn], tools: Tools) -> str | None:
        """Say why a question and its reply aren't proven, and remember where they meet inside a token."""
        segments, problems = self._segments(turns, None, tools)
        if problems:
            return "; ".join(problems)
        pieces = [i for s in segments for i in self._tokens.encode(s.text)]
        if pieces == list(self._tokens.encode("".join(s.text for s in segments))):
            return None
        self._torn[_kind(turns[-1])] = f"prompt and reply meet inside a token, at {segments[0].text[-20:]!r}"
        return self._torn[_kind(turns[-1])]

    def _refusal(self, why: str, mend: str | None = None) -> TemplateError:
        return TemplateError(
            f"the chat template can't be masked: {why}",
            value=f"{self.jinja[:60]!r}...",
            limit="replies that follow `add_generation_prompt` word for word and end with a special token",
            mend=mend or "model.chat_template=cascade1 (or cascade2, nano3, chatml, or your own .jinja file)",
        )


def _finer(part: Sequence[Turn]) -> list[Sequence[Turn]]:
    """Cut a conversation by users' turns, or by replies where all that is trained follows one user's turn."""
    trained = [i for i, turn in enumerate(part) if turn.role == "assistant" and turn.trained]
    users = [i for i, turn in enumerate(part) if turn.role == "user"]
    episodes: dict[int, list[int]] = {}
    for i in trained:
        episodes.setdefault(max(u for u in users if u < i), []).append(i)
    groups = list(episodes.values()) if len(episodes) > 1 else [[i] for i in trained]
    return [
        [replace(t, trained=t.trained and i in group) for i, t in enumerate(part[: group[-1] + 1])] for group in groups
    ]


def _kind(turn: Turn) -> tuple[bool, bool]:
    return turn.reasoning is not None, bool(turn.calls)


def _asked_mode(turns: Sequence[Turn], mode: Mode | None) -> Mode | None:
    return next((t.mode for t in reversed(turns) if t.role == "user" and t.mode), mode)
