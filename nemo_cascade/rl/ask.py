"""Tasks to judged groups: what training and evaluation do with a model, in the same way.

Answers are judged while others are still being generated. An error is never a score: the sample stands in its group
without one, and where too many do, the run stops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from nemo_cascade.actors.judges import Judges
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.errors import RewardError, RolloutError
from nemo_cascade.rl.episodes import Episode, Episodes, turn_seed
from nemo_cascade.rl.group import Group
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import Place, Task, Trajectory, Verdict

# How long an engine samples before it is told of new questions, where no answer ends.
_GLANCE_S = 0.02


@dataclass(frozen=True, slots=True)
class Answerers:
    """Who answers and who judges.

    Attributes:
        engines: hold the weights that are asked.
        judges: of the tasks' verifiers.
        tokenizer: the policy's.
        config: the run's configuration.
        environments: the processes of the worlds that the policy talks to.
    """

    engines: RolloutGroup
    judges: Judges
    tokenizer: ChatTokenizer
    config: RunConfig
    environments: EnvironmentHosts


def ask(
    tasks: Sequence[Task],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    by: Answerers,
    of: str,
    timer: PhaseTimer,
    told: Callable[[int], object] | None = None,
) -> list[Group]:
    """Have tasks answered and judged; return their groups, in the tasks' order.

    Args:
        tasks: different ones.
        samples: answers to each.
        sampling: how they are drawn.
        seed: of this asking.
        by: who answers and judges.
        of: what the tasks belong to, for people.
        timer: whose phases `generate` and `verify` this takes.
        told: is called with the number of samples that just ended.

    Raises:
        RewardError: more verdicts are errors than reward.max_error_fraction allows.
        RolloutError: samples or verdicts got lost.
    """
    ended: dict[Place, Trajectory] = {}
    verdicts: dict[Place, Verdict] = {}

    def judge(over: Sequence[Episode]) -> None:
        open_ones = []
        for episode in over:
            assert episode.trajectory is not None, "what is over was answered"
            ended[episode.trajectory.place] = episode.trajectory
            if episode.verdict is None:
                open_ones.append((episode.task, episode.trajectory))
            else:
                verdicts[episode.trajectory.place] = episode.verdict
        by.judges.submit(open_ones)
        if told is not None and over:
            told(len(over))

    with timer.phase("generate"), episodes_of(tasks, samples, sampling, by) as episodes:
        play(episodes, by.engines, sampling, seed, judge, by.config.environments.turns)
    with timer.phase("verify"):
        verdicts.update(by.judges.drain())
    groups = [_group(task, samples, ended, verdicts) for task in tasks]
    check_errors(groups, by.config.reward.max_error_fraction, of)
    return groups


def play(
    episodes: Episodes,
    engines: RolloutGroup,
    sampling: SamplingConfig,
    seed: int,
    told: Callable[[Sequence[Episode]], object],
    turns: Literal["lock_step", "streaming"] = "lock_step",
) -> None:
    """Play all episodes to their ends; `told` hears of those that are over, as they are.

    Raises:
        RolloutError: samples got lost.
    """
    if turns == "streaming":
        _stream(episodes, engines, sampling, seed, told)
        return
    turn = 0
    while questions := episodes.questions():
        for answers in engines.generate(questions, sampling, turn_seed(seed, turn)):
            told(episodes.answered(answers))
        told(episodes.settled())
        turn += 1


def _stream(
    episodes: Episodes,
    engines: RolloutGroup,
    sampling: SamplingConfig,
    seed: int,
    told: Callable[[Sequence[Episode]], object],
) -> None:
    """Ask each sample its next question as soon as its environment has answered; seeds are those of `play`."""
    with engines.turns(sampling) as flow:
        flow.ask(episodes.questions(), turn_seed(seed, 0))
        while flow.waiting or episodes.stepping:
            if flow.waiting:
                answers = flow.answers(_GLANCE_S)
            else:
                answers = []
                episodes.await_step()
            told(episodes.answered(answers))
            for question in episodes.questions():
                flow.ask([question], turn_seed(seed, episodes.turns_of(question)))
    told(episodes.settled())


def episodes_of(tasks: Sequence[Task], samples: int, sampling: SamplingConfig, by: Answerers) -> Episodes:
    """Return the samples of some tasks as episodes that are yet to be played; enter them."""
    room = by.config.rollout.max_model_len - sampling.max_tokens
    return Episodes(tasks, samples, by.environments, room, by.config.reward.deadline_s)


def _group(task: Task, samples: int, ended: dict[Place, Trajectory], verdicts: dict[Place, Verdict]) -> Group:
    places = [(task.task_id, sample) for sample in range(samples)]
    if lost := [place for place in places if place not in ended or place not in verdicts]:
        raise RolloutError(f"task {task.task_id} lost samples or verdicts", value=f"{len(lost)} of {samples}")
    return Group(task, [ended[place] for place in places], [verdicts[place] for place in places])


def check_errors(groups: Sequence[Group], limit: float, of: str) -> None:
    """Stop the run where too many verdicts are errors: a broken judge must not train or measure anybody.

    Raises:
        RewardError: names the kinds of errors.
    """
    bad = [g.error(s) for g in groups for s in range(len(g.answers)) if not g.valid(s)]
    total = sum(len(group.answers) for group in groups)
    if len(bad) > limit * total:
        kinds = sorted({f"{v.error}: {v.detail}" if v is not None else "aborted rollout" for v in bad})
        raise RewardError(
            f"too many verdicts of {of} are errors",
            value=f"{len(bad)} of {total} ({'; '.join(kinds[:3])})",
            limit=f"{limit:.1%}",
            mend="look at the verifier and its deadline, or raise reward.max_error_fraction",
        )
