"""Samples whose environments misbehave in every way: each ends once, as what it is, and nothing is left running."""

import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nemo_cascade.config.environments import EnvironmentProcessesConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.processes import janitor
from nemo_cascade.rl.episodes import Episodes
from nemo_cascade.types import EnvironmentUse, FinishReason, Task, first_turn
from tests.support.scripted_environments import KINDS, misbehaviour

SCRIPTED = Path(__file__).parents[2] / "support" / "scripted_environments.py"
DUE = {
    "hangs": ("timeout", None),
    "raises": ("environment", None),
    "crashes": ("crash", None),
    "says_50_mb": (None, 0.25),
    "forks": (None, 3.0),
    "forks_itself": (None, 3.0),
    "gives_nonsense": ("environment", None),
    None: (None, 3.0),
}


def play(count, deadline_s=10.0):
    use = EnvironmentUse(f"{SCRIPTED}:Hostile", {"turns": 3}, 8)
    tasks = [Task(str(i), "x", "math", np.array([5, 6], np.int32), {}, environment=use) for i in range(count)]
    over = []
    with EnvironmentHosts(
        EnvironmentProcessesConfig(processes=1 if count < 100 else 2), None, SandboxConfig()
    ) as hosts:
        with Episodes(tasks, 1, hosts, 40, deadline_s) as episodes:
            while questions := episodes.questions():
                for question in questions:
                    ids, logprobs = np.array([9, 2]), np.array([-1.0, -2.0])
                    said = (question.token_ids, ids, logprobs, FinishReason.STOP, 1)
                    over += episodes.answered([first_turn(question.task_id, 0, *said)])
                over += episodes.settled()
        ended = hosts.ended
    return over, ended


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [50, pytest.param(2000, marks=pytest.mark.long)])
def test_none_is_lost_none_is_double_none_is_wrong_and_no_process_is_left(count):
    before = set(janitor.descendants(os.getpid()))
    over, ended = play(count)
    assert sorted(int(episode.task.task_id) for episode in over) == list(range(count))
    for episode in over:
        kind, verdict = misbehaviour(episode.task.task_id), episode.verdict
        assert (verdict.error, verdict.score) == DUE[kind], (episode.task.task_id, kind, verdict)
        turns = 3 if kind in (None, "forks", "forks_itself") else 2
        assert episode.trajectory.num_turns == turns
        reason = FinishReason.LENGTH if kind == "says_50_mb" else FinishReason.STOP
        assert episode.trajectory.finish_reason is reason
    counts = Counter(episode.verdict.error for episode in over)
    assert (counts["timeout"], counts["crash"], counts["environment"]) == (count // 50, count // 50, count // 25)
    assert ended
    deadline = time.monotonic() + 5
    while set(janitor.descendants(os.getpid())) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(janitor.descendants(os.getpid())) <= before
    assert len(KINDS) == len(DUE) - 1
