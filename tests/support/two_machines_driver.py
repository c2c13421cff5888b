"""A driver on one of two machines, its policy on the other one: `two_machines_driver.py ADDRESS FOLDER DEADLINE_S`.

It proves one hand-over, then hands over without end, and says how that ended.
"""

import sys
import time
from itertools import count

import ray

from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.placement import GpuSlot
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.actors.sync import sync_weights
from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.rollout import RolloutConfig, WeightSyncConfig
from nemo_cascade.config.schema import ClusterConfig
from nemo_cascade.errors import CascadeError
from tests.support.tiny_policy import policy_setup

PATIENT = WeightSyncConfig(bucket_mib=1, deadline_s=300.0)


def main(address, folder, deadline_s):
    config = ClusterConfig(device="cpu", ray_address=address, num_nodes=2)
    with Cluster(config) as cluster:
        here = ray.get_runtime_context().get_node_id()
        (there,) = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {here}
        cluster.slots = [GpuSlot(there, 0), GpuSlot(here, 0)]  # the policy takes the first place, the engine the last
        setup = policy_setup(folder)
        policy = TrainerGroup(cluster, setup.parallel)
        policy.setup(setup)
        engines = RolloutConfig(
            dtype="fp32", placement="disaggregated", max_model_len=128, max_num_seqs=8, kv_cache_gib=0.0625
        )
        rollout = RolloutGroup(cluster, engines, folder, 0)
        report = sync_weights(policy, rollout, 1, PATIENT, verify=True)
        apart = policy.machine not in (cluster.driver.machine, rollout.fleet.members[0].info.machine)
        print("PROVEN", apart, report.buckets, report.weights_proven, report.agreement.engines.max, flush=True)
        hasty = WeightSyncConfig(bucket_mib=1, deadline_s=float(deadline_s))
        for version in count(2):
            started = time.monotonic()
            try:
                sync_weights(policy, rollout, version, hasty, verify=False)
            except CascadeError as error:
                print("ENDED", type(error).__name__, time.monotonic() - started, flush=True)
                break
            print("AGAIN", version, flush=True)
    print("STOPPED", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
