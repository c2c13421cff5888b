"""A round of preference optimisation: responses of the policy as it stands, judged, paired, and kept batch by batch.

<stage>/round/
    batch_000000.jsonl.gz    a line for each prompt: its responses with their scores, and which two became its pair
    <hash>/                  the pairs, tokens as they were sampled (data/responses.py)

A batch is written whole, and what it holds depends on its number only: a round that was stopped goes on behind the last
batch and comes to the same pairs.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.config.stages.preference import SampledPairsConfig
from nemo_cascade.config.verifiers.kinds import PREFERENCE
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.pairs import prompt_key
from nemo_cascade.data.prepared import make_folder
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.responses import ResponseStore, StoreWriter, open_responses
from nemo_cascade.errors import DataError, RolloutError
from nemo_cascade.rl.ask import Answerers, ask, check_errors
from nemo_cascade.rl.group import Group
from nemo_cascade.rl.pairing import OUTCOMES, Pairing, pair_of
from nemo_cascade.storage.atomic import write_atomically
from nemo_cascade.storage.hashes import hash_file, hash_recipe
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import FinishReason, Place, Task, Trajectory, Verdict

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Round:
    """The prompts of a round, cut into batches.

    Attributes:
        folder: where its batches and pairs lie.
        name: the stage's; other stages draw other prompts and other responses.
        seed: the run's.
        sampled: the stage's rules.
        prompts: of all its tasks.
    """

    folder: Path
    name: str
    seed: int
    sampled: SampledPairsConfig
    prompts: PromptSet

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-self.num_prompts // self.sampled.prompts_per_batch)

    @property
    def num_prompts(self) -> int:
        """Prompts of the round."""
        return self.sampled.prompts or len(self.prompts)

    def file(self, batch: int) -> Path:
        """Return where a batch is written."""
        return self.folder / f"batch_{batch:06d}.jsonl.gz"

    def missing(self) -> list[int]:
        """Return the batches that aren't there yet."""
        return [batch for batch in range(self.batches) if not self.file(batch).is_file()]

    def tasks(self, batch: int) -> list[Task]:
        """Return the tasks of a batch, drawn without putting back.

        Raises:
            DataError: more prompts are asked for than there are.
        """
        if self.num_prompts > len(self.prompts):
            raise self.prompts.too_few(self.num_prompts)
        order = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())]).permutation(len(self.prompts))
        first = batch * self.sampled.prompts_per_batch
        own = order[first : min(first + self.sampled.prompts_per_batch, self.num_prompts)]
        return self.prompts.asked(own.tolist())

    def sample(self, batch: int, by: Answerers, timer: PhaseTimer, told: Callable[[int], object]) -> None:
        """Have a batch answered, judged and paired, and write it.

        Raises:
            RewardError: more verdicts are errors than reward.max_error_fraction allows.
            RolloutError: rollouts got lost.
        """
        sampled, seed = self.sampled, zlib.crc32(f"{self.seed}/{self.name}/{batch}".encode())
        of = f"batch {batch + 1} of {self.name}"
        groups = ask(self.tasks(batch), sampled.num_generations, sampled.sampling, seed, by, of, timer, told)
        if sampled.reward_model is not None:
            with timer.phase("verify"):
                _ask_reward_model(groups, by, of)
        lines = (_line(group, pair_of(group, sampled.pairs), by.tokenizer) for group in groups)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        # No time in the header: the same round has the same bytes.
        write_atomically(self.file(batch), gzip.compress(text.encode(), mtime=0))

    def pairs(self) -> tuple[ResponseStore, dict[str, Any]]:
        """Return the pairs of all batches, and what the ledger is told of the round.

        Raises:
            DataError: not one pair was found.
        """
        files = [self.file(batch) for batch in range(self.batches)]
        recipe = {"format": FORMAT_VERSION, "batches": [hash_file(file) for file in files]}
        final = self.folder / hash_recipe(recipe)[:32]
        make_folder(final, lambda folder: self._write(folder, files, recipe))
        store = open_responses(final)
        return store, dict(store.stats["found"])

    def _write(self, folder: Path, files: Sequence[Path], recipe: Mapping[str, Any]) -> None:
        counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        scores: list[float] = []
        gaps: list[float] = []
        with StoreWriter(folder, 2, ("rewards",)) as writer:
            for line in _lines(files):
                counts[line["outcome"]] += 1
                scores += [response["score"] for response in line["responses"] if response["score"] is not None]
                if line["outcome"] != "pair":
                    continue
                sides = [line["responses"][line[side]] for side in ("chosen", "rejected")]
                gaps.append(line["rewards"][0] - line["rewards"][1])
                documents = [
                    (np.array(side["token_ids"], np.int32), _trained(side), (reward,))
                    for side, reward in zip(sides, line["rewards"], strict=True)
                ]
                writer.add(int(line["prompt_key"]), documents)
            found: dict[str, float | None] = {
                "prompts": sum(counts.values()),
                "pairs": len(writer),
                **{name: counts[name] for name in OUTCOMES if name != "pair"},
                "score_mean": float(np.mean(scores)) if scores else None,
                "reward_gap_mean": float(np.mean(gaps)) if gaps else None,
            }
            if not len(writer):
                raise DataError(
                    "no prompt of the round makes a pair",
                    value=", ".join(f"{count} {name}" for name, count in found.items() if name in OUTCOMES and count),
                    mend="more or harder prompts, more responses to each, or other rules (sampled.pairs)",
                )
            writer.finish({"rules": recipe, "found": found})


def _ask_reward_model(groups: Sequence[Group], by: Answerers, of: str) -> None:
    """Have the reward model score all responses that a verifier has judged; one that it is itself has its scores."""
    verified = [group for group in groups if group.task.verifier != PREFERENCE]
    found: dict[Place, Verdict] = by.judges.preferences([group.samples for group in verified])
    for group in verified:
        places = [answer.place for answer in group.answers]
        if lost := [place for place in places if place not in found]:
            raise RolloutError(f"task {group.task.task_id} lost verdicts of the reward model", value=len(lost))
        group.preferences = {sample: found[place] for sample, place in enumerate(places)}
    check_errors(groups, by.config.reward.max_error_fraction, of)


def _line(group: Group, pairing: Pairing, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Return what a batch's file says of a prompt."""
    messages = group.task.record.get("messages") or []
    return {
        "prompt_id": group.task.task_id,
        "domain": group.task.domain,
        "prompt_key": str(prompt_key(messages)),
        "prompt": tokenizer.decode(group.answers[0].token_ids[: group.answers[0].turns[0].begin]),
        "outcome": pairing.outcome,
        "chosen": pairing.chosen,
        "rejected": pairing.rejected,
        "rewards": list(pairing.rewards),
        "responses": [_response(group, sample, tokenizer) for sample in range(len(group.answers))],
    }


def _response(group: Group, sample: int, tokenizer: ChatTokenizer) -> dict[str, Any]:
    answer: Trajectory = group.answers[sample]
    error, preference = group.error(sample), group.preferences.get(sample)
    return {
        "response": tokenizer.decode(answer.token_ids[answer.turns[0].begin :]),
        "score": group.score(sample),
        "preference": None if preference is None else preference.score,
        "error": None if error is None else error.error,
        "truncated": answer.finish_reason == FinishReason.LENGTH,
        "token_ids": answer.token_ids.tolist(),
        "turns": [list(stretch) for turn in answer.turns for stretch in turn.sampled],
    }


def _trained(response: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return which tokens the policy sampled, [n]."""
    mask = np.zeros(len(response["token_ids"]), np.uint8)
    for begin, end in response["turns"]:
        mask[begin:end] = 1
    return mask


def _lines(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
