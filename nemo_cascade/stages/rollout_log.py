"""Rollouts on disk, to look at: one gzipped JSONL per step."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.stages.collect import RolloutBatch
from nemo_cascade.storage.atomic import write_atomically


def write_rollouts(folder: Path, step: int, batch: RolloutBatch, tokenizer: ChatTokenizer, most: int) -> None:
    """Write the first `most` rollouts of a step, whole groups, to rollouts/step_NNNNNN.jsonl.gz."""
    if most == 0:
        return
    target = folder / "rollouts" / f"step_{step:06d}.jsonl.gz"
    lines = []
    for p, prompt in enumerate(batch.prompts):
        for g, rollout in enumerate(batch.rollouts[p]):
            verdict = batch.verdicts[p][g]
            lines.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "domain": prompt.domain,
                    "prompt": tokenizer.decode(rollout.prompt_ids),
                    "response": tokenizer.decode(rollout.response_ids),
                    "reward": float(batch.rewards[p, g]) if batch.valid[p, g] else None,
                    "advantage": float(batch.advantages[p, g]),
                    "error": verdict.error,
                    "detail": verdict.detail,
                    "finish_reason": str(rollout.finish_reason),
                    "version": rollout.version,
                }
            )
        if len(lines) >= most:
            break
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(target, gzip.compress(text.encode()))
