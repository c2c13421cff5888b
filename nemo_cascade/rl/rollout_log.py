"""Rollouts on disk, to look at: one gzipped JSONL per step."""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.rl.batch import RolloutBatch
from nemo_cascade.rl.distill import Distilled, Response, response_gaps
from nemo_cascade.types import Float32, Task, Trajectory


def write_rollouts(
    folder: Path,
    step: int,
    batch: RolloutBatch,
    tokenizer: ChatTokenizer,
    most: int,
    trainer: Sequence[Float32] = (),
) -> None:
    """Write some rollouts of a step, whole groups of all domains in turn, to rollouts/step_NNNNNN.jsonl.gz.

    Args:
        folder: of the stage.
        step: from 1.
        batch: judged rollouts.
        tokenizer: of the policy.
        most: after this many rollouts no further group is written.
        trainer: the trainer's log-probs of each rollout's tokens, in the batch's order; empty where none were measured.
    """
    if most == 0:
        return
    lines: list[dict[str, Any]] = []
    pieces: dict[int, str] = {}
    begins = np.cumsum([0, *(len(group.answers) for group in batch.groups)])
    for p in domains_in_turn([group.task.domain for group in batch.groups], step):
        group = batch.groups[p]
        for g, answer in enumerate(group.answers):
            verdict = group.error(g) or group.verdicts[g]
            judged = {
                "reward": float(batch.marks.rewards[p, g]) if batch.marks.valid[p, g] else None,
                "advantage": float(batch.advantages[p, g]),
                "error": verdict.error,
                "detail": verdict.detail,
                "trainer_logprobs": _of_trainer(answer, trainer, begins[p] + g),
            }
            lines.append(_said(group.task, answer, tokenizer, pieces) | judged)
        if len(lines) >= most:
            break
    _write(folder, step, lines)


def write_responses(
    folder: Path,
    step: int,
    responses: Sequence[Response],
    distilled: Distilled,
    tokenizer: ChatTokenizer,
    most: int,
) -> None:
    """Write `most` responses of a distillation's step, as `write_rollouts` does.

    A response's advantage is the mean over its tokens of logp_teacher - logp_engine; nobody rewards it.
    """
    lines: list[dict[str, Any]] = []
    pieces: dict[int, str] = {}
    gaps = response_gaps(responses, distilled.source)
    for place in domains_in_turn([response.task.domain for response in responses], step)[:most]:
        response, gap_n = responses[place], gaps[place]
        judged = {
            "reward": None,
            "advantage": float(-gap_n.mean()) if gap_n.size else 0.0,
            "error": "failed" if response.failed else None,
            "detail": response.failed or "log-probability of each token less its teacher's",
            "teacher_gaps": _rounded(gap_n),
        }
        lines.append(_said(response.task, response.answer, tokenizer, pieces) | judged)
    if lines:
        _write(folder, step, lines)


def domains_in_turn(domains: Sequence[str], step: int) -> list[int]:
    """Return the places of all in the order in which they are kept: one of each domain, then the next of each.

    So what is cut off behind is no domain as a whole, and each step (from 1) begins with another one.
    """
    names = list(dict.fromkeys(domains))
    seen: Counter[str] = Counter()
    turns = []
    for place, domain in enumerate(domains):
        turns.append((seen[domain], (names.index(domain) - step + 1) % len(names), place))
        seen[domain] += 1
    return [place for _, _, place in sorted(turns)]


def _said(task: Task, answer: Trajectory, tokenizer: ChatTokenizer, pieces: dict[int, str]) -> dict[str, Any]:
    """Return what was asked and said, token by token; `pieces` are the texts of tokens that are known."""
    return {
        "prompt_id": task.task_id,
        "domain": task.domain,
        "prompt": tokenizer.decode(answer.token_ids[: answer.turns[0].begin]),
        "response": tokenizer.decode(answer.token_ids[answer.turns[0].begin :]),
        "finish_reason": str(answer.finish_reason),
        "version": answer.turns[-1].version,
        "turns": _turns(answer, tokenizer),
        "tokens": _pieces(answer, tokenizer, pieces),
        **_forced(answer, tokenizer),
        "logprobs": _rounded(np.concatenate([part.sampled_logprobs for part in answer.parts])),
    }


def _forced(answer: Trajectory, tokenizer: ChatTokenizer) -> dict[str, list[str]]:
    """Return what an engine put into the response, where it did; it isn't among the response's `tokens`."""
    texts = [tokenizer.decode(answer.token_ids[begin:end]) for begin, end in (t.forced for t in answer.turns)]
    return {"forced": [text for text in texts if text]} if any(texts) else {}


def _write(folder: Path, step: int, lines: Sequence[dict[str, Any]]) -> None:
    target = folder / "rollouts" / f"step_{step:06d}.jsonl.gz"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".tmp")
    with gzip.open(partial, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    partial.rename(target)


def _pieces(answer: Trajectory, tokenizer: ChatTokenizer, known: dict[int, str]) -> list[str]:
    """Return the text of each sampled token; part of a character is written as the replacement character."""
    sampled: list[int] = [t for part in answer.parts for t in part.token_ids[part.trained > 0].tolist()]
    for token in sampled:
        if token not in known:
            known[token] = tokenizer.decode([token])
    return [known[token] for token in sampled]


def _rounded(logprobs: Float32) -> list[float]:
    return [round(float(value), 4) for value in logprobs]


def _of_trainer(answer: Trajectory, trainer: Sequence[Float32], place: int) -> list[float] | None:
    return _rounded(trainer[place][answer.trained > 0]) if trainer else None


def _turns(answer: Trajectory, tokenizer: ChatTokenizer) -> list[dict[str, Any]]:
    """Return what the policy was given before each of its turns, what it said, in how many sampled tokens.

    Nothing where it said but one.
    """
    if answer.num_turns == 1:
        return []
    return [
        {
            "given": tokenizer.decode(part.token_ids[begin : turn.begin]),
            "said": tokenizer.decode(part.token_ids[turn.begin : turn.end]),
            "version": turn.version,
            "tokens": turn.num_sampled,
        }
        for part in answer.parts
        for begin, turn in zip([0, *(turn.end for turn in part.turns)], part.turns, strict=False)
    ]
