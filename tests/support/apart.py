"""`nemo-cascade` with the policy's first rank on another machine than the driver: `apart.py run cascade=... ...`.

As where the driver's node has no GPU: the other node's places come first, the driver's last. Everything else is the
command's own.
"""

import sys

import ray

from nemo_cascade.actors.placement import GpuSlot
from nemo_cascade.cli.main import main
from nemo_cascade.stages import roles


class ApartCluster(roles.Cluster):
    """A cluster of two nodes with a place on each, the driver's node last."""

    def start(self):
        super().start()
        here = ray.get_runtime_context().get_node_id()
        (there,) = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {here}
        self.slots = [GpuSlot(there, 0), GpuSlot(here, 0)]


if __name__ == "__main__":
    roles.Cluster = ApartCluster
    sys.exit(main())
