"""The endless stream of prompts that an RL stage draws its batches from, and its epoch-wise filter.

    epoch 0: all prompts, in an order of its own
    after each epoch: a prompt is easy if all its rollouts solved it, hard if none did     (as it was last asked)
    next epoch: all others, an easy one with probability readmit_easy, a hard one with readmit_hard

(arXiv 2512.13607, section 4.5.) Everything follows from the seed and the state, which is part of a checkpoint.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from nemo_cascade.config.stages.rollout_rules import PromptFilterConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int64, Task

# How a prompt's last group of rollouts came out, one letter each.
UNKNOWN, MIXED, EASY, HARD = "?", "m", "e", "h"


class PromptStream:
    """Draw different prompts, batch by batch.

    Args:
        prompts: the stage's.
        seed: of the run.
        rules: the filter.
        least: prompts of a step; a filtered epoch never has fewer.
        state: what `state` returned earlier; None starts anew.

    Raises:
        DataError: the state is of other prompts.
    """

    def __init__(
        self,
        prompts: PromptSet,
        seed: int,
        rules: PromptFilterConfig,
        least: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.prompts, self.seed, self.rules, self.least = prompts, seed, rules, least
        self._digest = digest_of(prompts)
        self._place = {prompt.task_id: i for i, prompt in enumerate(prompts.prompts)}
        if state is not None and state["prompts"] != self._digest:
            raise DataError(
                "the prompts, or what their verifier judges by, changed since the checkpoint",
                value=f"{len(prompts)} prompts in {prompts.source}",
                limit=f"the {len(state['known'])} that the stage began with",
                mend="bring the file back, or start the stage anew",
            )
        state = state or {"epoch": 0, "position": 0, "known": UNKNOWN * len(prompts), "judged": UNKNOWN * len(prompts)}
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        # As of the epoch's beginning, by which its prompts are chosen; and as of now.
        self._known, self._judged = str(state["known"]), list(state["judged"])
        self._order = self._epoch_order()

    def state(self) -> dict[str, Any]:
        """Return what the stream goes on from, JSON-like."""
        return {
            "prompts": self._digest,
            "epoch": self.epoch,
            "position": self.position,
            "known": self._known,
            "judged": "".join(self._judged),
        }

    def at(self, step: int) -> None:
        """An epoch's order doesn't depend on the step."""

    def take(self, n: int) -> list[Task]:
        """Draw the next n prompts, all different.

        Where a batch reaches into the next epoch, a prompt that is already in it is passed over for the one behind, and
        asked there again. What a batch at the epoch's border is yet to show counts from the epoch after that.

        Raises:
            DataError: n is more than there are, or the filter leaves fewer than a step needs.
        """
        if n > len(self._order):
            raise self.prompts.too_few(n)
        left = len(self._order) - self.position
        taken = dict.fromkeys(self._order[self.position : self.position + n].tolist())
        self.position += n
        if left < n:
            self._next_epoch(n - left)
            for index in self._order.tolist():
                if len(taken) == n:
                    break
                taken.setdefault(index)
        return self.prompts.asked(list(taken))

    def note(self, task_id: str, *, solved_all: bool, solved_none: bool) -> None:
        """Remember how a prompt's rollouts came out."""
        self._judged[self._place[task_id]] = EASY if solved_all else HARD if solved_none else MIXED

    def passed_over(self, task_id: str) -> None:
        """A group that is thrown away needs no other in its place here: all prompts are alike."""

    def metrics(self) -> dict[str, Any]:
        """Return what a step's log line says of the filter; nothing where it is off."""
        if not self.rules.enabled:
            return {}
        easy, hard = self._known.count(EASY), self._known.count(HARD)
        readmitted = sum(self._known[i] in (EASY, HARD) for i in self._order.tolist())
        counts = {"prompts": len(self._order), "easy": easy, "hard": hard, "readmitted": readmitted}
        return {"epoch": self.epoch, "prompt_filter": counts}

    def _next_epoch(self, position: int) -> None:
        self.epoch, self.position, self._known = self.epoch + 1, position, "".join(self._judged)
        self._order = self._epoch_order()

    def _epoch_order(self) -> Int64:
        everything = np.arange(len(self.prompts))
        admits = [not self.rules.enabled or self._admits(i) for i in range(len(everything))]
        admitted = everything[np.array(admits, bool)]
        if self.rules.enabled and len(admitted) < self.least:
            raise DataError(
                f"filtering leaves fewer prompts to epoch {self.epoch + 1} than a step needs",
                value=f"{len(admitted)} of {len(self.prompts)} prompts in {self.prompts.source} "
                f"({self._known.count(EASY)} solved by all rollouts, {self._known.count(HARD)} by none)",
                limit=f"prompts_per_step={self.least}",
                mend="add prompts of a fitting difficulty, raise readmit_easy or readmit_hard, or fewer steps",
            )
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(admitted))
        return np.asarray(admitted[order], np.int64)

    def _admits(self, index: int) -> bool:
        known = self._known[index]
        if known not in (EASY, HARD):
            return True
        chance = self.rules.readmit_easy if known == EASY else self.rules.readmit_hard
        return drawn(self.seed, self.epoch, self.prompts.prompts[index].task_id) < chance


def digest_of(prompts: PromptSet) -> str:
    """Return a hash of all that prompts ask and are judged by."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts.prompts:
        digest.update(f"{prompt.task_id}\0{prompt.token_ids.size}\0".encode() + prompt.token_ids.tobytes())
        # What a verifier judges by: other references would train another model.
        digest.update(json.dumps(prompt.record, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def drawn(seed: int, epoch: int, task_id: str) -> float:
    """Return a number in [0, 1), a pure function of its arguments."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{task_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
