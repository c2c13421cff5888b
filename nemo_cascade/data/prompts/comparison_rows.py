"""Prompts of a generative reward model: two responses to one conversation, to be compared.

Training rows have `messages` (the conversation), `response_1`, `response_2`, and people's `score_1`, `score_2` (1..5)
and `ranking` (1 first far better .. 6 second far better). Exchanging the responses exchanges the scores and turns the
ranking around: positions must not matter (arXiv 2512.20848, section 3.3.1).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_cascade.config.stages.tasks import ComparisonPromptConfig

_TEMPLATE = """You compare two responses to the last message of a conversation.

[Conversation]
{conversation}

[Response 1]
{first}

[Response 2]
{second}

Rate the helpfulness of each response from 1 (poor) to 5 (excellent), then rank them on one scale from 1 (response 1 is
far better) to 6 (response 2 is far better). End with one line of JSON:
{{"score_1": ..., "score_2": ..., "ranking": ...}}"""
_NEEDED = ("response_1", "response_2", "score_1", "score_2", "ranking")


def comparison_question(messages: Sequence[Mapping[str, Any]], first: str, second: str) -> str:
    """Return what a generative reward model is asked about two responses."""
    conversation = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
    return _TEMPLATE.format(conversation=conversation, first=first, second=second)


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A prompt of a row, or why there is none.

    Attributes:
        row: with the question as its only message.
        kind: `given` or `swapped`.
        problem: what is wrong with the row.
        left_out: never, here.
    """

    row: dict[str, Any]
    kind: str
    problem: str | None = None
    left_out: bool = False


class ComparisonPrompts:
    """Builds the prompts.

    Args:
        config: which positions are asked.
    """

    def __init__(self, config: ComparisonPromptConfig) -> None:
        self._config = config

    def build(self, row: Mapping[str, Any]) -> Iterator[ComparisonRow]:
        """Yield a row's prompts: as it is, and with its responses exchanged."""
        messages = row.get("messages")
        if missing := [name for name in _NEEDED if not isinstance(row.get(name), str | int | float)]:
            yield ComparisonRow({}, "given", f"a comparison lacks {', '.join(missing)}")
            return
        if not isinstance(messages, Sequence) or not all(isinstance(m, Mapping) and "role" in m for m in messages):
            yield ComparisonRow({}, "given", "a comparison has no `messages`")
            return
        rest = {k: v for k, v in row.items() if k not in ("messages", "tools")}
        yield ComparisonRow(_asked(messages, rest), "given")
        if self._config.swapped:
            yield ComparisonRow(_asked(messages, swapped(rest)), "swapped")


def swapped(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison with its responses exchanged: scores change places, and the ranking r becomes 7 - r."""
    first, second = (row["response_1"], row["score_1"]), (row["response_2"], row["score_2"])
    exchanged = {"response_1": second[0], "score_1": second[1], "response_2": first[0], "score_2": first[1]}
    return {**row, **exchanged, "ranking": 7 - row["ranking"]}


def _asked(messages: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, Any]:
    question = comparison_question(messages, str(row["response_1"]), str(row["response_2"]))
    return {**row, "messages": [{"role": "user", "content": question}]}
