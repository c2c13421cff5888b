"""Rollouts on disk, to look at: one gzipped JSONL per step."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.rl.batch import RolloutBatch
from nemo_cascade.types import Trajectory


def write_rollouts(folder: Path, step: int, batch: RolloutBatch, tokenizer: ChatTokenizer, most: int) -> None:
    """Write the first `most` rollouts of a step, whole groups, to rollouts/step_NNNNNN.jsonl.gz."""
    if most == 0:
        return
    target = folder / "rollouts" / f"step_{step:06d}.jsonl.gz"
    target.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for p, group in enumerate(batch.groups):
        for g, answer in enumerate(group.answers):
            verdict = group.error(g) or group.verdicts[g]
            lines.append(
                {
                    "prompt_id": group.task.task_id,
                    "domain": group.task.domain,
                    "prompt": tokenizer.decode(answer.token_ids[: answer.turns[0].begin]),
                    "response": tokenizer.decode(answer.token_ids[answer.turns[0].begin :]),
                    "reward": float(batch.marks.rewards[p, g]) if batch.marks.valid[p, g] else None,
                    "advantage": float(batch.advantages[p, g]),
                    "error": verdict.error,
                    "detail": verdict.detail,
                    "finish_reason": str(answer.finish_reason),
                    "version": answer.turns[-1].version,
                    "turns": _turns(answer, tokenizer),
                }
            )
        if len(lines) >= most:
            break
    partial = target.with_suffix(".tmp")
    with gzip.open(partial, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    partial.rename(target)


def _turns(answer: Trajectory, tokenizer: ChatTokenizer) -> list[dict[str, Any]]:
    """Return what the policy was given before each of its turns, and what it said; nothing where it said but one."""
    if answer.num_turns == 1:
        return []
    return [
        {
            "given": tokenizer.decode(part.token_ids[begin : turn.begin]),
            "said": tokenizer.decode(part.token_ids[turn.begin : turn.end]),
            "version": turn.version,
        }
        for part in answer.parts
        for begin, turn in zip([0, *(turn.end for turn in part.turns)], part.turns, strict=False)
    ]
