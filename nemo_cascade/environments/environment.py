"""What an environment is: it gives a task its first tokens, and says what follows each turn of the policy.

There is one object for each sample of a task, so it may keep what its world is like in between. It speaks in tokens:
what the policy said is handed to it as it was sampled, and what it says is appended as it is. Its tokens are given, not
sampled: no loss is taken on them.
"""

from dataclasses import dataclass
from typing import Protocol

from nemo_cascade.config.environments import ENVIRONMENTS
from nemo_cascade.config.plugins import load_plugin
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.types import EnvironmentUse, Int32, Task, Trajectory, Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """What follows a turn of the policy.

    Attributes:
        observation: tokens that the policy is given next, the opening of its next turn included; None: it is over.
        verdict: what the sample is worth if it ends here, because it is over or has no room for another turn; None:
            the task's verifier says so, by the last turn.
        anew: the observation isn't appended but takes the place of all before: a template rewrote it. The turns before
            are then a sample of their own, and so are the ones that follow.
    """

    observation: Int32 | None = None
    verdict: Verdict | None = None
    anew: bool = False


class Environment(Protocol):
    """One sample's world. Made with the policy's tokenizer, and by name with the settings of its task.

    What it does must follow from the task and the turns alone: a resumed run plays the same samples again. What it
    raises is an error of the sample, never a score; so is a step that takes longer than `reward.deadline_s`.

    One whose steps have limits of their own may say so by a static method, `longest_step_s(settings) -> seconds`: a run
    whose deadline of a step is too short for them is refused. Likewise `misuses(key, use, verifier) -> errors` says why
    the tasks under `key` (a suite's, a stage's) can't be played so: `use` is their block `environment`, `verifier` the
    kind of their reward, None where nobody judges.
    """

    def start(self, task: Task) -> Int32:
        """Return the first tokens that the policy is given, the same for all samples of the task."""

    def step(self, trajectory: Trajectory) -> Step:
        """Say what follows the last turn, which may have been cut off (`finish_reason`).

        Args:
            trajectory: all turns so far.
        """


def make_environment(use: EnvironmentUse, tokenizer: ChatTokenizer) -> Environment:
    """Return the environment of one sample.

    Raises:
        CascadeError: a user's own can't be loaded.
    """
    made: Environment = load_plugin(ENVIRONMENTS.get(use.name, use.name))(tokenizer, **use.settings)
    return made
