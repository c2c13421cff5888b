"""Conversations as tokens: each stretch of rendered text on its own, with its loss mask.

What is rendered, and which of it is trained, is the tokenizer's template's to say (`data/chat/templates`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.data.chat.templates import NO_REPLY, Messages, Mode, Segment, split_reasoning
from nemo_cascade.data.chat.tokenizer import ChatTokenizer, load_tokenizer
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int32

__all__ = [
    "NO_REPLY",
    "ChatTokenizer",
    "Mask",
    "Mode",
    "Segment",
    "encode_conversation",
    "encode_prompt",
    "encode_segments",
    "load_tokenizer",
    "response_text",
    "split_reasoning",
]

Mask = NDArray[np.uint8]

_THINK_OPENING, _THINK_TAG = "<think>\n", "<think>"
# Tokens of a prompt's end that surely hold the opening of a think block.
OPENING_TOKENS = 8


def encode_segments(tokenizer: ChatTokenizer, conversations: Iterable[Sequence[Segment]]) -> list[tuple[Int32, Mask]]:
    """Tokenise rendered conversations, each segment on its own. Returns ids [n] and mask [n] (1 = trained) of each."""
    rendered = [list(c) for c in conversations]
    pieces = iter(tokenizer.encode_many([s.text for c in rendered for s in c]))
    encoded = []
    for conversation in rendered:
        ids = [next(pieces) for _ in conversation]
        mask = np.repeat(
            np.fromiter((s.trained for s in conversation), np.uint8), np.fromiter((len(i) for i in ids), np.int64)
        )
        encoded.append((np.concatenate([np.asarray(i, dtype=np.int32) for i in ids]), mask))
    return encoded


def encode_conversation(
    tokenizer: ChatTokenizer, messages: Messages, mode: Mode | None = None, tools: Any = None
) -> tuple[Int32, Mask]:
    """Encode a conversation for training, whole. Returns ids [n] and mask [n]: 1 on replies and their end tokens."""
    return encode_segments(tokenizer, [tokenizer.template.render(messages, mode, tools)])[0]


def encode_prompt(tokenizer: ChatTokenizer, messages: Messages, mode: Mode | None, tools: Any = None) -> Int32:
    """Encode a conversation that ends with a user's or a tool's turn, up to where the reply is generated. Shape [n].

    Raises:
        DataError: the messages break the format, end with a reply, or leave its mode open.
    """
    if messages and messages[-1].get("role") == "assistant":
        raise DataError(
            "a prompt must end with a user turn",
            value=f"{messages[-1]}"[:200],
            mend="drop the turns behind the last user turn",
        )
    return encode_segments(tokenizer, [tokenizer.template.render(messages, mode, tools)])[0][0]


def response_text(tokenizer: ChatTokenizer, response_ids: Sequence[int] | Int32, prompt_ids: Int32) -> str:
    """Decode a sampled response without its end-of-turn token; other special tokens stay visible.

    Where the prompt opened a think block, the text begins with it: a thought that was cut off is no answer.

    Args:
        tokenizer: of both.
        response_ids: the sampled tokens.
        prompt_ids: what they were sampled from, or its last OPENING_TOKENS.
    """
    ids = list(response_ids)
    opened = tokenizer.decode(prompt_ids[-OPENING_TOKENS:]).rstrip().endswith(_THINK_TAG)
    return _THINK_OPENING * opened + tokenizer.decode(ids[:-1] if ids and ids[-1] in tokenizer.end_ids else ids)
