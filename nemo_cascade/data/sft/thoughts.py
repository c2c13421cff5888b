"""Take thoughts out of conversations, or cut them short: what makes a model answer without them, or with fewer.

Nemotron Nano 2 (arXiv 2508.14444) learns about a tenth of its prompts also without thoughts, and about 5 % of its last
SFT stage's samples with thoughts that break off at one to two thousand tokens and the answer behind them, so that the
answer is well-formed where an engine ends the thoughts at a budget.
"""

import json
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from nemo_cascade.config.stages.sft_data import ThoughtsConfig
from nemo_cascade.data.chat.mode_flags import without_flag
from nemo_cascade.data.chat.templates import split_reasoning
from nemo_cascade.data.chat.tokenizer import ChatTokenizer


def with_thoughts(row: Mapping[str, Any], rule: ThoughtsConfig, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Return a row whose replies think as the rule says; a row that was read (`conversation.read_row`).

    Args:
        row: with `messages`.
        rule: what becomes of thoughts.
        tokenizer: counts the tokens of a thought.
    """
    if rule.handling == "keep":
        return dict(row)
    drawn = blake3(json.dumps(row.get("messages"), sort_keys=True, default=str).encode()).digest()
    span = rule.most_tokens - rule.least_tokens + 1
    budget = rule.least_tokens + int.from_bytes(drawn[:8], "big") % span
    messages = [_changed(message, rule, budget, tokenizer) for message in row.get("messages") or ()]
    changed = {**row, "messages": messages}
    if rule.handling == "remove" and "mode" in row:
        changed["mode"] = "no_think"
    return changed


def _changed(message: Any, rule: ThoughtsConfig, budget: int, tokenizer: ChatTokenizer) -> Any:
    if not isinstance(message, Mapping):
        return message  # told by the template
    content = message.get("content")
    if message.get("role") == "user" and rule.handling == "remove":
        kept = {name: value for name, value in message.items() if name != "mode"}
        return {**kept, "content": without_flag(content)} if isinstance(content, str) else kept
    if message.get("role") != "assistant":
        return message
    inside, answer = split_reasoning(content) if isinstance(content, str) else (None, content)
    thought = message.get("reasoning_content") or inside
    kept = {name: value for name, value in message.items() if name != "reasoning_content"}
    if not isinstance(thought, str) or not thought:
        return message
    if rule.handling == "remove":
        return {**kept, "content": answer}
    ids = tokenizer.encode(thought)
    if len(ids) <= budget:
        return message
    # A character may be cut in two; what is left of it is no text.
    return {**kept, "content": answer, "reasoning_content": tokenizer.decode(ids[:budget]).rstrip("\ufffd")}
