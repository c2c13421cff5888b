"""Pass rates of prompts: how often the model that the engines hold solves each of them."""

from collections.abc import Callable, Iterator, Sequence

from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.data.prompts.profiles import PassRate
from nemo_cascade.rl.ask import Answerers, ask
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import Task

# Prompts that are asked and judged at a time; what is done is kept.
AT_A_TIME = 256


def pass_rates(
    tasks: Sequence[Task],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    by: Answerers,
    timer: PhaseTimer,
    told: Callable[[int], object] | None = None,
) -> Iterator[tuple[Sequence[Task], dict[str, PassRate]]]:
    """Yield the pass rates of tasks by their ids, some hundreds at a time.

    Args:
        tasks: different ones.
        samples: of each.
        sampling: how they are drawn.
        seed: of the samples.
        by: who answers and judges.
        timer: whose phases `generate` and `verify` this takes.
        told: is called with the number of samples that just ended.

    Raises:
        RewardError: more verdicts are errors than reward.max_error_fraction allows.
    """
    for begin in range(0, len(tasks), AT_A_TIME):
        some = tasks[begin : begin + AT_A_TIME]
        groups = ask(some, samples, sampling, seed, by, "the profile", timer, told)
        yield (
            some,
            {
                group.task.task_id: PassRate(
                    sum(score is not None and score >= 1.0 for score in group.scores),
                    sum(score is not None for score in group.scores),
                )
                for group in groups
            },
        )
