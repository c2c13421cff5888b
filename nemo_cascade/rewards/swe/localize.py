"""Localisation reward: are the files that must change among those that the answer names?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nemo_cascade.rewards.code_block import code_blocks
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.swe.edits import solution_part
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of

_ROW = {"gold_files": ["src/a.py", "src/b.py"]}
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])?\s*[`*\"']{0,3}([\w.@+-]+(?:/[\w.@+-]+)*)[`*\"',]{0,4}\s*")
_MAX_NAMED = 1000


class LocalizeVerifier:
    """Score the file names in an answer against the row's `gold_files`.

    The names stand one a line in the last code block, or in `<solution>` tags, or else anywhere in the answer.

    Args:
        metric: recall (share of the gold files that are named), precision (share of the named that are gold), or f1.
        max_files: an answer that names more scores 0: naming everything is no localisation.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden("<think>src/x.py</think>\n```\nsrc/a.py\nsrc/b.py\n```", 1.0, _ROW),
        Golden("<solution>\n1. `src/a.py`\n2. src/c.py\n</solution>", 0.5, _ROW),
        Golden("I don't know", 0.0, _ROW),
        Golden("<think>src/a.py", 0.0, _ROW),
        Golden("src/a.py", None, {}, error="record"),
    )

    def __init__(self, metric: Literal["recall", "precision", "f1"] = "recall", max_files: int = 10) -> None:
        self._metric, self._max_files = metric, max_files

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the reward in [0, 1]; see `Verifier.verify`."""
        gold = {str(path) for path in field_of(record, "gold_files", list)}
        if not gold:
            raise VerifierError("record", "field 'gold_files' is empty")
        answer = split_response(response.text).answer
        if answer is None:
            return Score(0.0, "thinking never ended")
        named = named_files(answer)
        if len(named) > self._max_files:
            return Score(0.0, f"{len(named)} files named, at most {self._max_files}")
        recall, precision = recall_and_precision(named, gold)
        f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        score = {"recall": recall, "precision": precision, "f1": f1}[self._metric]
        return Score(score, f"recall {recall:.2f}, precision {precision:.2f}")


def named_files(answer: str) -> set[str]:
    """Return the paths that an answer names."""
    part = solution_part(answer)
    blocks = code_blocks(part)
    lines = (blocks[-1].text if blocks else part).split("\n")
    matches = (_ITEM.fullmatch(line) for line in lines if len(line) <= 500)
    paths = (match[1].removeprefix("./") for match in matches if match)
    return {path for path, _ in zip((p for p in paths if "/" in p or "." in p), range(_MAX_NAMED), strict=False)}


def recall_and_precision(named: set[str], gold: set[str]) -> tuple[float, float]:
    """Return (share of the gold files that are named, share of the named files that are gold)."""
    hits = len(named & gold)
    return hits / len(gold), hits / len(named) if named else 0.0
