"""Find any of many fixed texts in another, fast: a tokenizer may have a thousand special tokens that begin alike."""

import re
from collections.abc import Iterable
from typing import Any


def any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Return an expression that matches the longest of some texts; None without any.

    Their common beginnings are tried once, and not once for each of them.
    """
    tree: dict[str, Any] = {}
    for text in filter(None, texts):
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return re.compile(_written(tree)) if tree else None


def _written(node: dict[str, Any]) -> str:
    # The longest first: what ends here is tried last.
    ways = [_chain(character, inner) for character, inner in node.items() if character]
    if not ways:
        return ""
    whole = ways[0] if len(ways) == 1 and "" not in node else f"(?:{'|'.join(ways)})"
    return whole + "?" if "" in node else whole


def _chain(character: str, node: dict[str, Any]) -> str:
    """Write a stretch without branches without calling itself for each of its characters."""
    text = character
    while len(node) == 1 and "" not in node:
        ((character, node),) = node.items()
        text += character
    return re.escape(text) + _written(node)
