"""Streaming turns on real engines: the conversations of turns in step, and an engine that dies on the way."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.config.environments import EnvironmentProcessesConfig
from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.schema import ClusterConfig
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.errors import RolloutError
from nemo_cascade.rl.ask import play
from nemo_cascade.rl.episodes import Episodes
from nemo_cascade.types import EnvironmentUse, FinishReason, Question, Task
from tests.support.talking import write_talkative

pytestmark = [pytest.mark.distributed, pytest.mark.long, pytest.mark.timeout(900)]

SCRIPTED = Path(__file__).parents[1] / "support" / "scripted_environments.py"
CONFIG = RolloutConfig(num_engines=2, dtype="fp32", max_model_len=256, max_num_seqs=32, kv_cache_gib=0.0625)
SAMPLING = SamplingConfig(max_tokens=32, temperature=1.0, top_p=1.0)
END = 7


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    model = write_talkative(tmp_path_factory.mktemp("streaming") / "model", 300, END, head_dim=32)
    with Cluster(ClusterConfig(device="cpu")) as cluster:
        group = RolloutGroup(cluster, CONFIG, model, seed=3)
        yield group
        group.close()


def played(engines, turns, told=lambda over: None, count=24, seconds=0.05):
    use = EnvironmentUse(f"{SCRIPTED}:Sleepy", {"turns": 4, "spread": 1.0, "seconds": seconds}, 8)
    rng = np.random.default_rng(0)
    tasks = [
        Task(f"p{i}", "x", "math", rng.integers(8, 300, 20).astype(np.int32), {}, environment=use) for i in range(count)
    ]
    over = []

    def hear(some):
        over.extend(some)
        told(over)

    with (
        EnvironmentHosts(EnvironmentProcessesConfig(threads=64), None, SandboxConfig()) as hosts,
        Episodes(tasks, 4, hosts, 256 - 32, 30.0) as episodes,
    ):
        play(episodes, engines, SAMPLING, 11, hear, turns)
    assert len(over) == count * 4
    return {episode.trajectory.place: episode for episode in over}


def test_streaming_turns_say_what_turns_in_step_say_but_for_rounding(engines):
    step, stream = (played(engines, turns) for turns in ("lock_step", "streaming"))
    assert step.keys() == stream.keys()
    same = [p for p in step if step[p].trajectory.token_ids.tolist() == stream[p].trajectory.token_ids.tolist()]
    assert len(same) > 0.95 * len(step)
    far = [np.abs(step[p].trajectory.sampled_logprobs - stream[p].trajectory.sampled_logprobs).max() for p in same]
    assert max(far) < 1e-4
    assert sum(e.trajectory.num_turns > 1 for e in stream.values()) > len(stream) / 2
    assert all(e.verdict.score == e.trajectory.num_turns for e in stream.values() if e.verdict is not None)


def test_a_generation_that_is_left_leaves_engines_that_work(engines):
    question = Question("a", np.arange(8, 30, dtype=np.int32), range(4))
    with engines.turns(SAMPLING) as turns:
        turns.ask([question], 1)
    with engines.turns(SAMPLING) as turns:
        turns.ask([Question("b", np.arange(8, 256, dtype=np.int32), range(1))], 1)
        with pytest.raises(RolloutError, match="too long"):
            turns.answers(1.0)
    with engines.turns(SAMPLING) as turns:
        turns.ask([question], 1)
        found = []
        while turns.waiting:
            found += turns.answers(0.1)
    assert {answer.place for answer in found} == {("a", sample) for sample in range(4)}
    assert {answer.finish_reason for answer in found} <= {FinishReason.STOP, FinishReason.LENGTH}


def test_an_engine_that_dies_is_asked_again_what_it_had_not_answered(engines):
    calm = played(engines, "streaming")
    os.kill(engines.pids[1], signal.SIGKILL)  # between two generations
    killed = []

    def kill(over):
        if len(over) > 10 and not killed:
            killed.append(engines.pids[0])
            os.kill(engines.pids[0], signal.SIGKILL)

    found = played(engines, "streaming", kill)
    assert killed
    assert engines.restarts == {"rollout-0": 1, "rollout-1": 1}
    same = [p for p in calm if calm[p].trajectory.token_ids.tolist() == found[p].trajectory.token_ids.tolist()]
    assert len(same) > 0.95 * len(calm)
