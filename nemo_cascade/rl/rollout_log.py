"""Rollouts on disk, to look at: one gzipped JSONL per step."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.rl.batch import RolloutBatch
from nemo_cascade.types import Float32, Trajectory


def write_rollouts(
    folder: Path,
    step: int,
    batch: RolloutBatch,
    tokenizer: ChatTokenizer,
    most: int,
    trainer: Sequence[Float32] = (),
) -> None:
    """Write the first `most` rollouts of a step, whole groups, to rollouts/step_NNNNNN.jsonl.gz.

    Args:
        folder: of the stage.
        step: from 1.
        batch: judged rollouts.
        tokenizer: of the policy.
        most: rollouts.
        trainer: the trainer's log-probs of each rollout's tokens, in the batch's order; empty where none were measured.
    """
    if most == 0:
        return
    target = folder / "rollouts" / f"step_{step:06d}.jsonl.gz"
    target.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    pieces: dict[int, str] = {}
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
                    "tokens": _pieces(answer, tokenizer, pieces),
                    "logprobs": _rounded(answer.sampled_logprobs),
                    "trainer_logprobs": _of_trainer(answer, trainer, len(lines)),
                }
            )
        if len(lines) >= most:
            break
    partial = target.with_suffix(".tmp")
    with gzip.open(partial, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    partial.rename(target)


def _pieces(answer: Trajectory, tokenizer: ChatTokenizer, known: dict[int, str]) -> list[str]:
    """Return the text of each sampled token; part of a character is written as the replacement character."""
    sampled: list[int] = answer.token_ids[answer.trained > 0].tolist()
    for token in sampled:
        if token not in known:
            known[token] = tokenizer.decode([token])
    return [known[token] for token in sampled]


def _rounded(logprobs: Float32) -> list[float]:
    return [round(float(value), 4) for value in logprobs]


def _of_trainer(answer: Trajectory, trainer: Sequence[Float32], place: int) -> list[float] | None:
    return _rounded(trainer[place][answer.trained > 0]) if trainer else None


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
