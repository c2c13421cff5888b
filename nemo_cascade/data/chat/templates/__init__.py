"""Chat templates: Cascade 1, Cascade 2, Nano 3, plain ChatML, and any HF template whose replies can be proven.

A model folder's `chat_template` says which one is used: for SFT, for RL prompts and by whoever loads the exported
model. `install` puts the configured one there.
"""

from nemo_cascade.data.chat.templates.base import Segment, Template
from nemo_cascade.data.chat.templates.cascade2 import Cascade2, Nano3
from nemo_cascade.data.chat.templates.chatml import Cascade1, ChatMl
from nemo_cascade.data.chat.templates.jinja import JinjaTemplate
from nemo_cascade.data.chat.templates.render import Tokens
from nemo_cascade.data.chat.templates.turns import NO_REPLY, Messages, Mode, split_reasoning

__all__ = [
    "NAMED",
    "NO_REPLY",
    "Cascade1",
    "Cascade2",
    "ChatMl",
    "JinjaTemplate",
    "Messages",
    "Mode",
    "Nano3",
    "Segment",
    "Template",
    "Tokens",
    "split_reasoning",
]

NAMED: dict[str, Template] = {t.name: t for t in (Cascade1(), Cascade2(), Nano3(), ChatMl())}
"""Templates that a configuration can name."""
