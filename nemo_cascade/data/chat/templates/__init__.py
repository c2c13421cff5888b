"""Chat templates: of each published system, plain ChatML, and any HF template whose replies can be proven.

A model folder's `chat_template` says which one is used: for SFT, for RL prompts and by whoever loads the exported
model. `install` puts the configured one there.
"""

from nemo_cascade.data.chat.templates.base import Segment, Template
from nemo_cascade.data.chat.templates.cascade2 import Cascade2, Nano3
from nemo_cascade.data.chat.templates.chatml import Cascade1, ChatMl
from nemo_cascade.data.chat.templates.jinja import JinjaTemplate
from nemo_cascade.data.chat.templates.nano_v2 import NanoV2
from nemo_cascade.data.chat.templates.nemotron_4 import Nemotron4
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
    "NanoV2",
    "Nemotron4",
    "Segment",
    "Template",
    "Tokens",
    "split_reasoning",
]

NAMED: dict[str, Template] = {t.name: t for t in (Cascade1(), Cascade2(), Nano3(), NanoV2(), Nemotron4(), ChatMl())}
"""Templates that a configuration can name."""
