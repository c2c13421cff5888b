"""One step's judged groups as columns: scores, rewards, advantages, and what a log line says of them.

Shapes: P groups, G samples of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.errors import RolloutError
from nemo_cascade.losses.advantage import count_unpaired_groups
from nemo_cascade.rewards.judgement import FALLBACK
from nemo_cascade.rl.group import Group
from nemo_cascade.rl.rewards import Marks, Rule
from nemo_cascade.types import FinishReason, Trajectory


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """P groups of G judged rollouts.

    Attributes:
        groups: [P].
        marks: scores, validity, rewards and who is trained, [P, G] each.
        advantages: [P, G] float64; 0 where invalid or without spread.
        dropped_groups: groups that dynamic sampling threw away for want of variance.
        rounds: generation rounds that dynamic sampling took.
    """

    groups: list[Group]
    marks: Marks
    advantages: NDArray[np.float64]
    dropped_groups: int
    rounds: int

    @property
    def num_tokens(self) -> int:
        """Sampled tokens."""
        return int(self._lengths.sum())

    @property
    def reward_mean(self) -> float:
        """Mean reward of the valid rollouts."""
        valid = self.marks.valid
        return float(self.marks.rewards[valid].mean()) if valid.any() else 0.0

    @property
    def truncation_rate(self) -> float:
        """Share of the rollouts that hit their token limit."""
        return float(np.mean(self.marks.truncated))

    @property
    def _lengths(self) -> NDArray[np.int64]:
        return np.array([[answer.num_sampled for answer in group.answers] for group in self.groups])

    def check_ages(self, version: int, most: int) -> tuple[float, int]:
        """Return mean and maximum of the rollouts' ages in steps, turn by turn; a turn is as old as its oldest token.

        Args:
            version: of the weights that the batch trains.
            most: steps that a rollout may be old.

        Raises:
            RolloutError: a rollout is older, or of weights that are yet to come.
        """
        parts = [part for group in self.groups for answer in group.answers for part in answer.parts]
        ages = [version - turn.oldest for part in parts for turn in part.turns]
        if min(ages) < 0 or max(ages) > most:
            value, limit = f"{min(ages)} to {max(ages)} steps", f"0 to max_staleness={most}"
            raise RolloutError("rollouts of other weights than this step may train", value=value, limit=limit)
        return sum(ages) / len(ages), max(ages)

    def metrics(self) -> dict[str, Any]:
        """Return what a step's log line says of its rollouts."""
        marks, lengths = self.marks, self._lengths.ravel()
        judged = marks.valid.any(axis=1)
        best = np.where(marks.valid, marks.scores, -np.inf).max(axis=1)[judged]
        worst = np.where(marks.valid, marks.scores, np.inf).min(axis=1)[judged]
        return {
            "reward_mean": self.reward_mean,
            "reward_std": float(marks.rewards[marks.valid].std()) if marks.valid.any() else 0.0,
            "score_mean": float(marks.scores[marks.valid].mean()) if marks.valid.any() else 0.0,
            "code_switch_rate": float(marks.switched.mean()),
            "solved_all": float((worst >= 1.0).mean()) if judged.any() else 0.0,
            "solved_none": float((best <= 0.0).mean()) if judged.any() else 0.0,
            "response_length_mean": float(lengths.mean()),
            "response_length_p50": float(np.percentile(lengths, 50)),
            "response_length_p95": float(np.percentile(lengths, 95)),
            "response_length_max": int(lengths.max()),
            "truncation_rate": self.truncation_rate,
            "verdict_errors": int((~marks.valid).sum()),
            "verdict_errors_by_kind": self._errors_by_kind(),
            "groups": len(self.groups),
            "groups_dropped": self.dropped_groups,
            "groups_unpaired": count_unpaired_groups(marks.valid),
            "sampling_rounds": self.rounds,
            **({"faults": marks.faults} if marks.faults else {}),
            **self._fallbacks(),
            **self._by_mode(),
            **self._by_domain(),
            **self._turns(),
        }

    def _errors_by_kind(self) -> dict[str, int]:
        errors: dict[str, int] = {}
        for group in self.groups:
            for sample in range(len(group.answers)):
                if (verdict := group.error(sample)) is not None and verdict.error is not None:
                    errors[verdict.error] = errors.get(verdict.error, 0) + 1
        return errors

    def _by_mode(self) -> dict[str, dict[str, float | None]]:
        """Return mean reward and length of those asked to think and those asked not to, where a batch has both."""
        modes = np.array([str(group.task.record.get("mode")) for group in self.groups])
        if set(modes) != {"think", "no_think"}:
            return {}
        found: dict[str, dict[str, float | None]] = {"reward_by_mode": {}, "response_length_by_mode": {}}
        for mode in ("think", "no_think"):
            rewards = self.marks.rewards[modes == mode][self.marks.valid[modes == mode]]
            found["reward_by_mode"][mode] = float(rewards.mean()) if rewards.size else None
            found["response_length_by_mode"][mode] = float(self._lengths[modes == mode].mean())
        return found

    def _fallbacks(self) -> dict[str, int]:
        """Return how many verdicts a judge gave that couldn't be read, and counted for something all the same."""
        told = [verdict.detail.startswith(FALLBACK) for group in self.groups for verdict in group.verdicts]
        return {"judgements_unreadable": sum(told)} if any(told) else {}

    def _by_domain(self) -> dict[str, dict[str, float | None]]:
        """Return what each domain's rollouts were like, where a batch has several: one level by name, as logs take."""
        domains = np.array([group.task.domain for group in self.groups])
        if len(names := sorted(set(domains.tolist()))) < 2:
            return {}
        found: dict[str, dict[str, float | None]] = {}
        turns = np.array([[answer.num_turns for answer in group.answers] for group in self.groups])
        for name in names:
            rows = domains == name
            valid = self.marks.valid[rows]
            values = {
                "groups": int(rows.sum()),
                "reward_mean": float(self.marks.rewards[rows][valid].mean()) if valid.any() else None,
                "score_mean": float(self.marks.scores[rows][valid].mean()) if valid.any() else None,
                "response_length_mean": float(self._lengths[rows].mean()),
                "turns_mean": float(turns[rows].mean()),
                "truncation_rate": float(self.marks.truncated[rows].mean()),
                "verdict_errors": int((~valid).sum()),
            }
            for metric, value in values.items():
                found.setdefault(f"{metric}_by_domain", {})[name] = value
        return found

    def _turns(self) -> dict[str, float]:
        """Return the mean number of turns, where a rollout has more than one."""
        turns = [answer.num_turns for group in self.groups for answer in group.answers]
        return {"turns_mean": float(np.mean(turns))} if max(turns) > 1 else {}


def _said(tokenizer: ChatTokenizer, answer: Trajectory) -> list[str]:
    """Return all that the policy said in a rollout, turn by turn."""
    return [
        response_text(tokenizer, part.token_ids[turn.begin : turn.end], part.token_ids[: turn.begin])
        for part in answer.parts
        for turn in part.turns
    ]


def marked(groups: Sequence[Group], rules: Sequence[Rule], tokenizer: ChatTokenizer) -> Marks:
    """Return the columns of groups, with rules applied in order."""
    valid = np.array([[g.valid(s) for s in range(len(g.answers))] for g in groups], dtype=bool)
    scores = np.array([[score or 0.0 for score in g.scores] for g in groups], dtype=np.float64)
    liked = np.zeros(valid.shape)
    for row, group in zip(liked, groups, strict=True):
        for sample, verdict in group.preferences.items():
            row[sample] = verdict.score or 0.0
    marks = Marks(
        tasks=[group.task for group in groups],
        turns=lambda: [[_said(tokenizer, a) for a in g.answers] for g in groups],
        texts=lambda: [[response_text(tokenizer, a.response_ids, a.context_ids) for a in g.answers] for g in groups],
        scores=scores,
        valid=valid,
        truncated=np.array([[a.finish_reason == FinishReason.LENGTH for a in g.answers] for g in groups], dtype=bool),
        preferences=liked,
        rewards=scores.copy(),
        trained=valid.copy(),
        switched=np.zeros(valid.shape, dtype=bool),
    )
    for rule in rules:
        rule.apply(marks)
    return marks
