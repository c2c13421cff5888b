"""One step's rollouts: asked and judged, grouped, rewarded, turned into advantages.

    draw tasks; half of a batch thinks where asked for       RLHF of unified models         prompt_sets.py
    a group whose rewards don't vary is drawn anew           IF-RL, batch-wise filtering    `collect` (section 4.4)
    its outcome decides whether the task stays               Math RL, epoch-wise filtering  prompt_stream.py (4.5)
    scores become rewards                                    rl/rewards.py (4.3, 4.4.2, 4.5, tables 16-20)
    rewards become advantages                                losses/advantage.py (4.1.2)

(Sections and tables of arXiv 2512.13607.)
"""

import hashlib
import logging
from collections.abc import Callable, Sequence

import numpy as np

from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.data.prompts.streams import Stream
from nemo_cascade.errors import RolloutError
from nemo_cascade.losses.advantage import group_advantages
from nemo_cascade.rl.ask import Answerers, ask, check_errors
from nemo_cascade.rl.batch import RolloutBatch, marked
from nemo_cascade.rl.group import Group
from nemo_cascade.rl.rewards import rules_of
from nemo_cascade.telemetry.timers import PhaseTimer

log = logging.getLogger(__name__)


class Collector:
    """Draws tasks from the stage's stream, has them answered and judged.

    Args:
        stream: of the stage's tasks.
        by: who answers and judges.
        stage: the stage.
    """

    def __init__(self, stream: Stream, by: Answerers, stage: GrpoStage) -> None:
        self.stream, self.by, self.stage = stream, by, stage
        self._rules = rules_of(stage)
        self._outcome = [rule for rule in self._rules if not rule.shapes]

    def collect(self, step: int, timer: PhaseTimer, told: Callable[[int], object] | None = None) -> RolloutBatch:
        """Return the step's batch; the stream moves on by the tasks that were drawn, and learns how each came out.

        Args:
            step: whose batch.
            timer: whose phases `generate` and `verify` this takes.
            told: is called with the number of samples that just ended.

        Raises:
            RewardError: more verdicts are errors than reward.max_error_fraction allows.
            RolloutError: no group has any variance, or rollouts got lost.
        """
        stage, dynamic, wanted = self.stage, self.stage.dynamic_sampling, self.stage.prompts_per_step
        kept: list[Group] = []
        dropped = 0
        self.stream.at(step)
        for round_index in range(dynamic.max_rounds if dynamic.enabled else 1):
            tasks, seed = self.stream.take(wanted - len(kept)), rollout_seed(self.by.config.seed, step, round_index)
            self.by.judges.group_size = stage.num_generations
            groups = ask(tasks, stage.num_generations, stage.sampling, seed, self.by, f"step {step + 1}", timer, told)
            self.tell(groups)
            if stage.shaping.combine == "preference":
                with timer.phase("verify"):
                    self._ask_reward_model(groups, step)
            useful = [g for g in groups if self.has_signal(g)] if dynamic.enabled else groups
            for group in groups:
                if not any(group is kept_one for kept_one in useful):
                    self.stream.passed_over(group.task.task_id)
            kept += useful
            dropped += len(groups) - len(useful)
            if len(kept) == wanted:
                break
        check_signal(len(kept), wanted, dropped, dynamic.max_rounds, step)
        return self.batch_of(kept, dropped, round_index + 1)

    def batch_of(self, groups: list[Group], dropped: int, rounds: int) -> RolloutBatch:
        """Return a step's batch of judged groups: their rewards and advantages by the stage's rules."""
        marks = marked(groups, self._rules, self.by.tokenizer)
        advantages = group_advantages(marks.rewards, marks.valid, self.stage.advantage)
        return RolloutBatch(groups, marks, advantages, dropped, rounds)

    def tell(self, groups: Sequence[Group]) -> None:
        """Let the stream know of which tasks all valid rollouts are right, and of which none; not if none is valid."""
        marks = marked(groups, self._outcome, self.by.tokenizer)
        for group, rewards, valid in zip(groups, marks.rewards, marks.valid, strict=True):
            if valid.any():
                right = rewards[valid]
                solved_all, solved_none = bool(right.min() >= 1.0), bool(right.max() <= 0.0)
                self.stream.note(group.task.task_id, solved_all=solved_all, solved_none=solved_none)

    def has_signal(self, group: Group) -> bool:
        """Tell whether two valid rollouts of a group have other rewards, all of the stage's rules applied to it."""
        marks = marked([group], self._rules, self.by.tokenizer)
        return bool(np.unique(marks.rewards[marks.valid]).size > 1)

    def _ask_reward_model(self, groups: list[Group], step: int) -> None:
        """Have the reward model score the groups whose rewards it decides: those with a verified response."""
        asked = [g for g in groups if preference_counts(g)]
        liked = self.by.judges.preferences([g.samples for g in asked])
        for group in asked:
            group.preferences = {answer.sample: liked[answer.place] for answer in group.answers}
        check_errors(groups, self.by.config.reward.max_error_fraction, f"step {step + 1}")


def check_signal(kept: int, wanted: int, dropped: int, rounds: int, step: int) -> None:
    """Say so where dynamic sampling left a step fewer groups than it wanted.

    Raises:
        RolloutError: it left none.
    """
    if not kept:
        raise RolloutError(
            "no group of the step has any variance in its rewards",
            value=f"{dropped} groups in {rounds} rounds at step {step + 1}",
            mend="easier or harder prompts, more rounds, or dynamic_sampling.enabled=false",
        )
    if kept < wanted:
        log.warning("step %d trains on %d of %d groups: the rest had no variance", step + 1, kept, wanted)


def preference_counts(group: Group) -> bool:
    """Tell whether the reward model has a say in a group's rewards: one of its responses is verified."""
    return any(score is not None and score >= 1.0 for score in group.scores)


def rollout_seed(seed: int, step: int, round_index: int) -> int:
    """Return the seed of one generation round: a pure function of the run's seed and the place in the run."""
    digest = hashlib.blake2b(f"{seed}/{step}/{round_index}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")
