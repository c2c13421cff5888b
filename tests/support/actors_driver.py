"""A driver that tests end in every way there is: `python actors_driver.py HOW [MODEL_FOLDER]`.

It says READY and its session folder once its actors are busy, then does what HOW says.
"""

import sys
import time

import numpy as np
import ray

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet
from nemo_cascade.config.schema import ClusterConfig
from nemo_cascade.errors import TrainingError
from tests.support.odd_actors import StubbornActor
from tests.support.streams import flat


def idle_actors(cluster):
    """Two actors with children; one of them deaf."""
    fleet = Fleet(cluster, "stubborn", TrainingError)
    for _ in range(2):
        fleet.add(StubbornActor, cluster.environment(1))
    fleet.wait_until_up()
    fleet.call("start_child", deadline_s=30)
    fleet.members[0].handle.hold_the_lock.remote()
    time.sleep(0.5)
    return fleet


def real_roles(cluster, folder):
    """A policy, an engine in the middle of a generation, and verifiers."""
    from nemo_cascade.actors.reward import RewardGroup
    from nemo_cascade.actors.rollout import RolloutGroup
    from nemo_cascade.actors.trainer import TrainerGroup
    from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
    from nemo_cascade.config.schema import RewardConfig
    from nemo_cascade.types import Question
    from tests.support.tiny_policy import policy_setup

    setup = policy_setup(folder)
    policy = TrainerGroup(cluster, setup.parallel)
    policy.setup(setup)
    reward = RewardGroup(cluster, RewardConfig(workers=1), folder)
    reward.self_test(["math"])
    config = RolloutConfig(dtype="fp32", max_model_len=512, max_num_seqs=64, kv_cache_gib=0.125)
    rollout = RolloutGroup(cluster, config, folder, 0)
    questions = [Question(f"p/{i}", np.arange(9, 40, dtype=np.int32), range(16)) for i in range(64)]
    stream = flat(rollout.generate(questions, SamplingConfig(max_tokens=400), 0))
    next(stream)
    return policy, reward, rollout, stream


def main(how, folder=None):
    with Cluster(ClusterConfig(device="cpu", policy_threads=1)) as cluster:
        kept = real_roles(cluster, folder) if folder else idle_actors(cluster)
        print("READY", cluster.session, flush=True)
        if how == "exception":
            raise RuntimeError("on purpose")
        if how == "signal" and folder:
            for _ in kept[-1]:
                time.sleep(0.01)
        elif how == "signal":
            ray.wait([kept.members[0].handle.hello.remote()], timeout=600)


if __name__ == "__main__":
    main(*sys.argv[1:])
