"""One step's rollouts: generated and verified at the same time, grouped, judged, turned into advantages.

    draw prompts; half of a batch thinks where asked for     RLHF of unified models         prompt_sets.py
    a group whose rewards don't vary is drawn anew           IF-RL, batch-wise filtering    `collect` (section 4.4)
    its outcome decides whether the prompt stays             Math RL, epoch-wise filtering  prompt_stream.py (4.5)
    a truncated rollout is masked, zero, or kept             `overlong` (4.5, tables 16-20) `_batch`
    scores become rewards                                    stages/shape_rewards.py (4.3, 4.4.2)
    rewards become advantages                                losses/advantage.py (4.1.2)

(Sections and tables of arXiv 2512.13607.)

Shapes: P prompts, G rollouts per prompt.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.actors.judges import Judges
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.data.chat.encode import response_text
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.prompts.prompt_stream import PromptStream
from nemo_cascade.errors import RewardError, RolloutError
from nemo_cascade.losses.advantage import count_unpaired_groups, group_advantages
from nemo_cascade.stages.shape_rewards import code_switches, shape_rewards
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import FinishReason, Prompt, Rollout, Verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """P groups of G judged rollouts.

    Attributes:
        prompts: P prompts.
        rollouts: [P][G].
        verdicts: [P][G], the verifier's own words.
        scores: [P, G] float64, the verifier's; 0 where invalid.
        switched: [P, G] bool; holds text of a foreign script. All False where the stage doesn't look.
        rewards: [P, G] float64 after the overlong rule and shaping; 0 where invalid, never used there.
        valid: [P, G] bool; False where the verdict is an error or the rollout was aborted.
        advantages: [P, G] float64; 0 where invalid or without spread.
        trained: [P, G] bool; False where the rollout gets no gradient (invalid, or truncated under overlong=mask).
        dropped_groups: groups that dynamic sampling threw away for want of variance.
        rounds: generation rounds that dynamic sampling took.
    """

    prompts: list[Prompt]
    rollouts: list[list[Rollout]]
    verdicts: list[list[Verdict]]
    scores: NDArray[np.float64]
    switched: NDArray[np.bool_]
    rewards: NDArray[np.float64]
    valid: NDArray[np.bool_]
    advantages: NDArray[np.float64]
    trained: NDArray[np.bool_]
    dropped_groups: int
    rounds: int

    @property
    def num_tokens(self) -> int:
        """Response tokens."""
        return sum(r.response_ids.size for group in self.rollouts for r in group)

    @property
    def reward_mean(self) -> float:
        """Mean reward of the valid rollouts."""
        return float(self.rewards[self.valid].mean()) if self.valid.any() else 0.0

    @property
    def truncation_rate(self) -> float:
        """Share of the rollouts that hit their token limit."""
        return float(np.mean([r.finish_reason == FinishReason.LENGTH for group in self.rollouts for r in group]))

    def metrics(self) -> dict[str, Any]:
        """Return what a step's log line says of its rollouts."""
        lengths = np.array([r.response_ids.size for group in self.rollouts for r in group])
        judged = self.valid.any(axis=1)
        best = np.where(self.valid, self.scores, -np.inf).max(axis=1)[judged]
        worst = np.where(self.valid, self.scores, np.inf).min(axis=1)[judged]
        errors: dict[str, int] = {}
        for group in self.verdicts:
            for verdict in group:
                if verdict.error is not None:
                    errors[verdict.error] = errors.get(verdict.error, 0) + 1
        return {
            "reward_mean": self.reward_mean,
            "reward_std": float(self.rewards[self.valid].std()) if self.valid.any() else 0.0,
            "score_mean": float(self.scores[self.valid].mean()) if self.valid.any() else 0.0,
            "code_switch_rate": float(self.switched.mean()),
            "solved_all": float((worst >= 1.0).mean()) if judged.any() else 0.0,
            "solved_none": float((best <= 0.0).mean()) if judged.any() else 0.0,
            "response_length_mean": float(lengths.mean()),
            "response_length_p50": float(np.percentile(lengths, 50)),
            "response_length_p95": float(np.percentile(lengths, 95)),
            "response_length_max": int(lengths.max()),
            "truncation_rate": self.truncation_rate,
            "verdict_errors": int((~self.valid).sum()),
            "verdict_errors_by_kind": errors,
            "groups": len(self.prompts),
            "groups_dropped": self.dropped_groups,
            "groups_unpaired": count_unpaired_groups(self.valid),
            "sampling_rounds": self.rounds,
            **self._by_mode(),
        }

    def _by_mode(self) -> dict[str, dict[str, float | None]]:
        """Return mean reward and length of those asked to think and those asked not to, where a batch has both."""
        modes = np.array([str(prompt.record.get("mode")) for prompt in self.prompts])
        if set(modes) != {"think", "no_think"}:
            return {}
        lengths = np.array([[r.response_ids.size for r in group] for group in self.rollouts])
        found: dict[str, dict[str, float | None]] = {"reward_by_mode": {}, "response_length_by_mode": {}}
        for mode in ("think", "no_think"):
            rewards = self.rewards[modes == mode][self.valid[modes == mode]]
            found["reward_by_mode"][mode] = float(rewards.mean()) if rewards.size else None
            found["response_length_by_mode"][mode] = float(lengths[modes == mode].mean())
        return found


@dataclass(slots=True)
class Group:
    """The rollouts of one prompt, filled as they arrive; sample -> rollout, verdict, and the reward model's verdict.

    The last is there only where the reward model has a say beside the verifier.
    """

    prompt: Prompt
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    preferences: dict[int, Verdict] = field(default_factory=dict)

    def valid(self, sample: int) -> bool:
        """Tell whether the rollout ended by itself or by its limit and was judged."""
        aborted = self.rollouts[sample].finish_reason == FinishReason.ABORT
        return not aborted and self.error(sample) is None

    def error(self, sample: int) -> Verdict | None:
        """Return the verdict that is an error, of verifier or reward model, if any."""
        given = (self.verdicts[sample], self.preferences.get(sample))
        return next((v for v in given if v is not None and v.error is not None), None)

    def truncated(self, sample: int) -> bool:
        """Tell whether the rollout hit its token limit."""
        return self.rollouts[sample].finish_reason == FinishReason.LENGTH

    def reward(self, sample: int, overlong: str) -> float:
        """Return the reward after the overlong rule; 0 for an invalid rollout, which nothing reads."""
        if not self.valid(sample) or (overlong == "zero" and self.truncated(sample)):
            return 0.0
        score = self.verdicts[sample].score
        assert score is not None
        return score

    def has_signal(self, overlong: str) -> bool:
        """Tell whether at least two valid rollouts have different rewards, by verifier and reward model."""
        return len({self._outcome(s, overlong) for s in self.rollouts if self.valid(s)}) > 1

    def _outcome(self, sample: int, overlong: str) -> tuple[float, float | None]:
        """Return what a rollout's reward follows from: the reward model tells the verified responses apart."""
        reward, preference = self.reward(sample, overlong), self.preferences.get(sample)
        return reward, None if preference is None or reward < 1.0 else preference.score

    def tell(self, stream: PromptStream, overlong: str) -> None:
        """Let the stream know whether all valid rollouts solved the prompt, or none did; nothing if none is valid."""
        rewards = [self.reward(s, overlong) for s in self.rollouts if self.valid(s)]
        if rewards:
            stream.note(self.prompt.prompt_id, solved_all=min(rewards) >= 1.0, solved_none=max(rewards) <= 0.0)


class Collector:
    """Draws prompts from the stage's stream, has them answered and judged."""

    def __init__(
        self,
        stream: PromptStream,
        rollout: RolloutGroup,
        judges: Judges,
        stage: GrpoStage,
        config: RunConfig,
        tokenizer: ChatTokenizer,
    ) -> None:
        self.stream, self.rollout, self.judges = stream, rollout, judges
        self.stage, self.config, self.tokenizer = stage, config, tokenizer

    def collect(self, step: int, timer: PhaseTimer) -> RolloutBatch:
        """Return the step's batch; the stream moves on by the prompts that were drawn, and learns how each came out.

        Raises:
            RewardError: more verdicts are errors than reward.max_error_fraction allows.
            RolloutError: no group has any variance, or rollouts got lost.
        """
        wanted, dynamic, overlong = self.stage.prompts_per_step, self.stage.dynamic_sampling, self.stage.overlong
        kept: list[Group] = []
        dropped = 0
        for round_index in range(dynamic.max_rounds if dynamic.enabled else 1):
            groups = self._generate(step, round_index, wanted - len(kept), timer)
            self._check_errors(groups, step)
            for group in groups:
                group.tell(self.stream, overlong)
            if self.stage.shaping.combine == "preference":
                with timer.phase("verify"):
                    self._ask_reward_model(groups, step)
            useful = [g for g in groups if g.has_signal(overlong)] if dynamic.enabled else groups
            kept += useful
            dropped += len(groups) - len(useful)
            if len(kept) == wanted:
                break
        if not kept:
            raise RolloutError(
                "no group of the step has any variance in its rewards",
                value=f"{dropped} groups in {dynamic.max_rounds} rounds at step {step + 1}",
                mend="easier or harder prompts, more rounds, or dynamic_sampling.enabled=false",
            )
        if len(kept) < wanted:
            log.warning("step %d trains on %d of %d groups: the rest had no variance", step + 1, len(kept), wanted)
        return self._batch(kept, dropped, round_index + 1)

    def _generate(self, step: int, round_index: int, count: int, timer: PhaseTimer) -> list[Group]:
        """Answer and judge `count` prompts; a rollout is submitted to its verifier the moment it ends."""
        groups = {p.prompt_id: Group(p) for p in self.stream.take(count)}
        size, sampling = self.stage.num_generations, self.stage.sampling
        seed = rollout_seed(self.config.seed, step, round_index)
        with timer.phase("generate"):
            for ended in self.rollout.generate([g.prompt for g in groups.values()], size, sampling, seed):
                for rollout in ended:
                    groups[rollout.prompt_id].rollouts[rollout.sample] = rollout
                self.judges.submit([(f"{r.prompt_id}#{r.sample}", groups[r.prompt_id].prompt, r) for r in ended])
        with timer.phase("verify"):
            for key, verdict in self.judges.drain():
                prompt_id, _, sample = key.rpartition("#")
                groups[prompt_id].verdicts[int(sample)] = verdict
        for group in groups.values():
            if not len(group.rollouts) == len(group.verdicts) == size:
                raise RolloutError(
                    f"prompt {group.prompt.prompt_id} lost rollouts or verdicts",
                    value=f"{len(group.rollouts)} rollouts, {len(group.verdicts)} verdicts",
                    limit=size,
                )
        return list(groups.values())

    def _ask_reward_model(self, groups: list[Group], step: int) -> None:
        """Have the reward model score the groups whose rewards it decides: those with a verified response."""
        asked = [g for g in groups if any(g.reward(s, "keep") >= 1.0 for s in g.rollouts)]
        samples = range(self.stage.num_generations)
        verdicts = self.judges.preferences([(g.prompt, [g.rollouts[s] for s in samples]) for g in asked])
        for group, given in zip(asked, verdicts, strict=True):
            group.preferences = dict(enumerate(given))
        self._check_errors(groups, step)

    def _check_errors(self, groups: list[Group], step: int) -> None:
        """Stop the run where too many verdicts are errors: a broken verifier must not train anybody."""
        bad = [g.error(s) for g in groups for s in g.rollouts if not g.valid(s)]
        total, limit = len(groups) * self.stage.num_generations, self.config.reward.max_error_fraction
        if len(bad) > limit * total:
            kinds = sorted({f"{v.error}: {v.detail}" if v is not None else "aborted rollout" for v in bad})
            raise RewardError(
                f"too many verdicts of step {step + 1} are errors",
                value=f"{len(bad)} of {total} ({'; '.join(kinds[:3])})",
                limit=f"{limit:.1%}",
                mend="look at the verifier and its deadline, or raise reward.max_error_fraction",
            )

    def _batch(self, groups: list[Group], dropped: int, rounds: int) -> RolloutBatch:
        samples, overlong = range(self.stage.num_generations), self.stage.overlong
        scores = np.array([[g.reward(s, "keep") for s in samples] for g in groups], dtype=np.float64)
        valid = np.array([[g.valid(s) for s in samples] for g in groups], dtype=bool)
        truncated = np.array([[g.truncated(s) for s in samples] for g in groups], dtype=bool)
        switched = self._switched(groups)
        failed = truncated & (overlong == "zero")
        rewards = shape_rewards(scores, valid, failed, switched, self._preferences(groups), self.stage.shaping)
        return RolloutBatch(
            prompts=[g.prompt for g in groups],
            rollouts=[[g.rollouts[s] for s in samples] for g in groups],
            verdicts=[[g.error(s) or g.verdicts[s] for s in samples] for g in groups],
            scores=scores,
            switched=switched,
            rewards=rewards,
            valid=valid,
            advantages=group_advantages(rewards, valid, self.stage.advantage),
            trained=valid & ~truncated if overlong == "mask" else valid,
            dropped_groups=dropped,
            rounds=rounds,
        )

    def _preferences(self, groups: list[Group]) -> NDArray[np.float64] | None:
        """Return the reward model's scores [P, G], 0 where it wasn't asked; None where it has no say."""
        if self.stage.shaping.combine != "preference":
            return None
        scores = np.zeros((len(groups), self.stage.num_generations))
        for row, group in zip(scores, groups, strict=True):
            for sample, verdict in group.preferences.items():
                row[sample] = 0.0 if verdict.score is None else verdict.score
        return scores

    def _switched(self, groups: list[Group]) -> NDArray[np.bool_]:
        if self.stage.shaping.code_switch_margin is None:
            return np.zeros((len(groups), self.stage.num_generations), dtype=bool)
        samples = range(self.stage.num_generations)
        texts = [
            [response_text(self.tokenizer, g.rollouts[s].response_ids, g.rollouts[s].prompt_ids) for s in samples]
            for g in groups
        ]
        return code_switches([g.prompt for g in groups], texts, self.stage.shaping.language)


def rollout_seed(seed: int, step: int, round_index: int) -> int:
    """Return the seed of one generation round: a pure function of the run's seed and the place in the run."""
    digest = hashlib.blake2b(f"{seed}/{step}/{round_index}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")
