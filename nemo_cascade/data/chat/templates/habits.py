"""Find out, by trying, how a template wants its messages, how it ends a reply, and what of a conversation it writes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, product

from nemo_cascade.data.chat.templates.proof import Ending, find_ending, find_last
from nemo_cascade.data.chat.templates.render import REFUSALS, THOUGHT_FIELDS, ClockRead, Renderer, Tokens
from nemo_cascade.data.chat.templates.turns import Call, Tools, Turn

TALK = (
    Turn("user", "What is two and two?"),
    Turn("assistant", "It is four."),
    Turn("user", "And three and three?"),
    Turn("assistant", "That is six."),
)
THOUGHT = "adding up slowly"
TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Look up a word.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string", "description": "the word"}}},
    },
}
_ID = "lookup123"  # nine letters and digits, as some templates demand
EPISODE = (
    Turn("user", "Which word?"),
    Turn("assistant", "", calls=(Call("lookup", {"word": "oak"}, {"id": _ID}),)),
    Turn("tool", "a tree", name="lookup", call_id=_ID),
    Turn("assistant", "It is a tree."),
)
_LABELS = ("id", "tool_call_id", "name")
"""What a row may leave out: the id of a call, the id in its result, the tool's name there."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What was found.

    Attributes:
        renderer: gives the template its messages as it wants them.
        endings: how a reply ends, by whether it calls tools.
        hides_thoughts: earlier thoughts aren't written.
        rewrites: earlier replies are written in another way even where they have no thought.
        declares: tools are written, not only their calls.
        enough: with which of a call's labels a tool episode is written as with all; empty: calls aren't written at all.
        tools: what the template has to be given at least: nothing, or some tool.
    """

    renderer: Renderer
    endings: Mapping[bool, Ending]
    hides_thoughts: bool
    rewrites: bool
    declares: bool
    enough: frozenset[frozenset[str]]
    tools: Tools

    def tool_problem(self, turns: Sequence[Turn], tools: Tools) -> str | None:
        """Say why the template doesn't write a conversation's tools, calls and results; None if it does."""
        calls = [call for turn in turns for call in turn.calls]
        results = [turn for turn in turns if turn.role == "tool"]
        if not (tools or calls or results):
            return None
        if (tools and not self.declares) or ((calls or results) and not self.enough):
            return "the chat template doesn't write tools, calls and results"
        given = {
            "id": all(call.id is not None for call in calls),
            "tool_call_id": all(turn.call_id is not None for turn in results),
            "name": all(turn.name is not None for turn in results),
        }
        if not (calls or results) or frozenset(label for label in _LABELS if given[label]) in self.enough:
            return None
        lacking = [label for label in _LABELS if not given[label]]
        return f"the chat template writes what calls and results don't have: {' or '.join(lacking)}"


def learn(renderer: Renderer, tokens: Tokens) -> Habits:
    """Learn a template's habits.

    Raises:
        ClockRead: it writes today's date, and none is pinned.
        ValueError: it doesn't write a question and an answer, or ends none by a special token.
    """
    renderer, base = _content_form(renderer)
    renderer = _thought_form(renderer, base)
    renderer, whole = _tool_form(renderer)
    enough: frozenset[frozenset[str]] = frozenset()
    if whole is not None:
        subsets = chain.from_iterable(combinations(_LABELS, n) for n in range(len(_LABELS) + 1))
        enough = frozenset(frozenset(s) for s in subsets if _tried(renderer, _labelled(s), [TOOL]) == whole)
    declares = "Look up a word." in (_tried(renderer, TALK[:2], [TOOL]) or whole or "")
    ending = _find_ending(renderer, tokens, base)
    hides, rewrites = _earlier_replies(renderer, ending, base)
    endings = {False: ending, True: _call_ending(renderer, tokens, ending)}
    return Habits(renderer, endings, hides, rewrites, declares, enough, base)


def _content_form(renderer: Renderer) -> tuple[Renderer, Tools]:
    """Find how contents are read, and whether some tool has to be there."""
    none: list[Mapping[str, object]] = []
    for tools in (none, [TOOL]):
        for candidate in (renderer, renderer.shaped(parts=True)):
            text = _tried(candidate, TALK[:2], tools)
            if text is not None and all(turn.content in text for turn in TALK[:2]):
                return candidate, tools
    try:
        renderer.write(TALK[:2], [], thinks=False)
    except ClockRead:
        raise
    except REFUSALS as error:
        raise ValueError(f"it fails on a question and an answer: {error}") from error
    return renderer, none


def _thought_form(renderer: Renderer, base: Tools) -> Renderer:
    """Find the field that a thought is read from, in a final answer, or in a step that calls a tool."""
    final = (TALK[0], replace(TALK[1], reasoning=THOUGHT))
    step = (EPISODE[0], replace(EPISODE[1], reasoning=THOUGHT), *EPISODE[2:])
    for turns, tools in ((final, base), (step[:2], [TOOL]), (step[:3], [TOOL])):
        for name in THOUGHT_FIELDS:
            candidate = renderer.shaped(thought=name)
            if THOUGHT in (_tried(candidate, turns, tools, thinks=True) or ""):
                return candidate
    return renderer


def _tool_form(renderer: Renderer) -> tuple[Renderer, str | None]:
    """Find how calls and results are read, and return with it a tool episode; None: they aren't written."""
    plain = _tried(renderer, TALK)
    for parts, text, null in product((renderer.form.parts, True), (False, True), (False, True)):
        candidate = renderer.shaped(parts=parts, arguments_as_text=text, null_content=null)
        whole = _tried(candidate, EPISODE, [TOOL])
        if whole is None or not all(word in whole for word in ("lookup", "oak", "a tree")):
            continue
        # A mapping that a template takes for text is written as Python writes it; so is None.
        odd = "{'word'" in whole or (null and "None" in whole)
        if not odd and (parts == renderer.form.parts or _tried(candidate, TALK) == plain):
            return candidate, whole
    return renderer, None


def _labelled(labels: Iterable[str]) -> list[Turn]:
    kept = set(labels)
    return [
        replace(
            turn,
            calls=tuple(replace(call, given=call.given if "id" in kept else {}) for call in turn.calls),
            call_id=turn.call_id if "tool_call_id" in kept else None,
            name=turn.name if "name" in kept else None,
        )
        for turn in EPISODE
    ]


def _find_ending(renderer: Renderer, tokens: Tokens, base: Tools) -> Ending:
    problem = ""
    bos, eos = (tokens.named.get(name, "") for name in ("bos_token", "eos_token"))
    for thought in (None, THOUGHT):
        talk = [replace(turn, reasoning=thought) if turn.role == "assistant" else turn for turn in TALK]
        content, thinks = talk[1].content, thought is not None
        prompt, whole = (_tried(renderer, talk[:n], base, thinks=thinks, prompt=n == 1) for n in (1, 2))
        if prompt is None or whole is None:
            problem = problem or "it fails on a question and an answer"
        elif not whole.startswith(prompt):
            problem = problem or f"an answer doesn't begin where its prompt ends, {prompt[-40:]!r}"
        elif content not in whole[len(prompt) :]:
            problem = problem or f"an answer isn't written as it is given: {whole[len(prompt) :]!r}"
        else:
            written, followed = whole[len(prompt) :], _tried(renderer, talk, base, thinks=thinks)
            special = tokens.special - {bos if bos != eos else ""}
            if ending := find_ending(written, content, followed, special, eos):
                return ending
            problem = f"an answer is ended by no special token: {written.rpartition(content)[2]!r} follows it"
    raise ValueError(problem)


def _call_ending(renderer: Renderer, tokens: Tokens, answer: Ending) -> Ending:
    """Find the token that ends a reply that calls a tool: most often that of an answer."""
    prompt = _tried(renderer, EPISODE[:1], [TOOL], prompt=True)
    whole = _tried(renderer, EPISODE[:2], [TOOL])
    if prompt is None or whole is None or not whole.startswith(prompt):
        return answer
    return find_last(whole[len(prompt) :], answer, tokens.special)


def _earlier_replies(renderer: Renderer, ending: Ending, base: Tools) -> tuple[bool, bool]:
    """Find out whether earlier thoughts are hidden, and whether earlier replies are written in another way."""
    plain, first = (_tried(renderer, TALK[:n], base) for n in (4, 2))
    rewrites = False
    if plain is not None and first is not None and (stop := ending.stop(first)) is not None:
        rewrites = not plain.startswith(first[:stop])
    thinking = [replace(turn, reasoning=THOUGHT) if turn.role == "assistant" else turn for turn in TALK]
    return (_tried(renderer, thinking, base, thinks=True) or "").count(THOUGHT) == 1, rewrites


def _tried(
    renderer: Renderer, turns: Sequence[Turn], tools: Tools = (), *, thinks: bool = False, prompt: bool = False
) -> str | None:
    """Render turns; None where the template doesn't take them."""
    try:
        return renderer.write(turns, tools, thinks=thinks, prompt=prompt)
    except REFUSALS:
        return None
