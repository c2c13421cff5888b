"""GPUs that Ray believes in are enough to see who is placed where."""

import os

import pytest

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet
from nemo_cascade.actors.placement import engine_slots, placed_on, policy_slots
from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.config.schema import ClusterConfig
from nemo_cascade.errors import RuntimeUnavailableError, TrainingError
from tests.support.odd_actors import MisbehavingActor

pytestmark = pytest.mark.distributed


def test_actors_see_the_gpus_of_their_slots_and_no_others():
    with Cluster(ClusterConfig(device="gpu", gpus_per_node=4)) as cluster:
        assert [slot.gpu for slot in cluster.slots] == [0, 1, 2, 3]
        config = RolloutConfig(num_engines=1, tensor_parallel_size=2, placement="disaggregated")
        wanted = [*([slot] for slot in policy_slots(cluster.slots, 2)), *engine_slots(cluster.slots, config)]
        fleet = Fleet(cluster, "odd", TrainingError)
        for slots in wanted:
            environment, options = placed_on(slots)
            fleet.add(MisbehavingActor, cluster.environment(1, **environment), **options)
        fleet.wait_until_up()
        assert fleet.call("visible_gpus", deadline_s=30) == ["0", "1", "2,3"]
        fleet.close()


def test_gpus_that_never_come_are_an_error_and_leave_nothing():
    cluster = Cluster(ClusterConfig(device="gpu", num_nodes=2, gpus_per_node=1, actor_start_deadline_s=2))
    with pytest.raises(RuntimeUnavailableError, match="1 GPUs in the cluster; allowed: 2"):
        cluster.start()
    assert not os.path.exists(cluster.session)
