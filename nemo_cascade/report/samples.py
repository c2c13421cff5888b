"""A few rollouts of a stage for people to read: from its first and its last step, the best, the worst, the cut off."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_cascade.errors import RunFolderError

MOST_CHARACTERS = 6000


@dataclass(frozen=True, slots=True)
class ReadTurn:
    """A turn of a rollout: what the policy was given before it, and what it said; texts, possibly cut."""

    given: str
    said: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout to read.

    Attributes:
        step: of the stage, from 1.
        why: why it was chosen: best, worst, truncated.
        turns: what it was asked and said, in order; one where it said but one.
        reward: None where the verifier failed.
        error: the verifier's error, if any.
        detail: the verifier's reasons in words; empty where it gives none.
        advantage: of the response; None where its group had no signal.
        finish_reason: stop, length, abort.
        prompt_id: whose response it is.
    """

    step: int
    why: str
    turns: tuple[ReadTurn, ...]
    reward: float | None
    error: str | None
    detail: str
    advantage: float | None
    finish_reason: str
    prompt_id: str


def stage_samples(rollouts: Path) -> list[Sample]:
    """Choose from the first and the newest step that have rollouts; none where there are none.

    Raises:
        RunFolderError: a file can't be read.
    """
    files = sorted(rollouts.glob("step_*.jsonl.gz"))
    chosen = []
    for file in dict.fromkeys([*files[:1], *files[-1:]]):
        step = int(file.name.removeprefix("step_").removesuffix(".jsonl.gz"))
        for why, line in _choose(read_rollouts(file)).items():
            chosen.append(
                Sample(
                    step=step,
                    why=why,
                    turns=_turns(line),
                    reward=line.get("reward"),
                    error=line.get("error"),
                    detail=str(line.get("detail") or ""),
                    advantage=line.get("advantage"),
                    finish_reason=str(line.get("finish_reason", "")),
                    prompt_id=str(line.get("prompt_id", "")),
                )
            )
    return chosen


def read_rollouts(file: Path) -> list[dict[str, Any]]:
    """Read one step's rollouts.

    Raises:
        RunFolderError: the file isn't gzipped JSON lines.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, EOFError, ValueError) as error:
        raise RunFolderError(
            f"can't read the rollouts in {file}", value=repr(error), mend="restore the file, or leave it out"
        ) from error


def _choose(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return why -> rollout, each rollout once; ties go to the first."""
    scored = [line for line in lines if line.get("reward") is not None]
    chosen: dict[str, dict[str, Any]] = {}
    if scored:
        best, worst = max(scored, key=lambda line: line["reward"]), min(scored, key=lambda line: line["reward"])
        chosen["best"] = best
        if worst["reward"] < best["reward"]:
            chosen["worst"] = worst
    for why, wanted in (
        ("truncated", lambda line: line.get("finish_reason") == "length"),
        ("verifier error", lambda line: line.get("error") is not None),
    ):
        found = next((line for line in lines if wanted(line) and all(line is not c for c in chosen.values())), None)
        if found is not None:
            chosen[why] = found
    return chosen


def _turns(line: dict[str, Any]) -> tuple[ReadTurn, ...]:
    turns = line.get("turns") or [{"given": line.get("prompt", ""), "said": line.get("response", "")}]
    return tuple(ReadTurn(_cut(turn["given"]), _cut(turn["said"])) for turn in turns)


def _cut(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n\n[... {len(text) - MOST_CHARACTERS} characters left out ...]\n\n{text[-half:]}"
