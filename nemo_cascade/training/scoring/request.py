"""What goes into a scorer; import-light, for the driver's side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_cascade.config.model import ModelConfig, PrecisionConfig
from nemo_cascade.types import Int32


@dataclass(frozen=True)
class ScorerSetup:
    """What a scorer needs.

    Attributes:
        hf_path: the reward model, with its tokenizer.
        policy_tokenizer: HF folder whose tokenizer decodes responses.
        model: layer implementation, vocabulary padding.
        tensor_parallel_size: ranks.
        precision: number formats.
        micro_batch_tokens: most tokens of a forward pass, unless one text alone is longer.
    """

    hf_path: str
    policy_tokenizer: str
    model: ModelConfig
    tensor_parallel_size: int
    precision: PrecisionConfig
    micro_batch_tokens: int


@dataclass(frozen=True, slots=True)
class Request:
    """One response to score.

    Attributes:
        messages: the conversation it answers.
        response_ids: its tokens as they were sampled.
        prompt_end: the last tokens that they were sampled from (`chat.OPENING_TOKENS` of them).
    """

    messages: Sequence[Mapping[str, Any]]
    response_ids: Int32
    prompt_end: Int32
