"""The text that a reward model scores, in training and in service: the question, and the answer without its thinking.

Both come through here as text and are tokenised by the reward model's own tokenizer, so a pair in the training data
and a rollout of any policy look the same to it (arXiv 2512.13607, section 4.3: question + answer after `</think>`;
without `</think>` the whole unfinished text).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nemo_cascade.data.chat.encode import Segment, encode_segments
from nemo_cascade.data.chat.mode_flags import without_flag
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.types import Int32

_CLOSED = "</think>"


def scored_answer(reply: str) -> str:
    """Return what counts of a reply: the part behind its last `</think>`, or all of it where there is none."""
    _, closed, answer = reply.rpartition(_CLOSED)
    return answer.lstrip("\n") if closed else reply


def encode_scored(tokenizer: ChatTokenizer, texts: Sequence[tuple[Sequence[Mapping[str, Any]], str]]) -> list[Int32]:
    """Tokenise (messages ending in a user turn, reply) for a reward model, each [n], ending in the end-of-turn token.

    The last user turn carries the flag of a reply that doesn't think, whatever flag the reply was drawn with. A reply
    that was cut off ends with the token too: that it is unfinished is for the reward model to see.

    Raises:
        DataError: the messages break the chat format.
    """
    rendered = []
    for messages, reply in texts:
        question = tokenizer.template.render([*messages[:-1], _unflagged(messages[-1])], "no_think")
        rendered.append([*question, Segment(scored_answer(reply) + tokenizer.template.turn_end, True)])
    return [ids for ids, _ in encode_segments(tokenizer, rendered)]


def _unflagged(message: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if name != "mode"}
    return {**kept, "content": without_flag(str(message["content"]))}
