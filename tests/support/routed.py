"""Which experts a trainer's own routers choose, and batches with other choices than those."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from tests.support.tiny_policy import TinySource


@dataclass(frozen=True)
class Replayed:
    """The batches of a TinySource with choices of experts: step -> one array [T, L, K] for each of its four packs."""

    routed: dict

    def micro_batches(self, step, dp_rank, dp_size):
        share = 4 // dp_size
        packs = TinySource().micro_batches(step, dp_rank, dp_size)
        own = self.routed[step][dp_rank * share : (dp_rank + 1) * share]
        return [replace(pack, routed_experts=routed) for pack, routed in zip(packs, own, strict=True)]


def choices(worker, step):
    """Return which experts the routers of a model on one rank choose, [T, L, K] int16 for each pack of a TinySource."""
    from nemo_cascade.models.megatron.router import routers_of

    (chunk,) = worker._ready.chunks
    maps = []

    def see(router, _, output):
        maps.append(output[1])

    hooks = [router.register_forward_hook(see) for router in routers_of(chunk).values()]
    worker.logprobs(TinySource(), step)
    for hook in hooks:
        hook.remove()
    packs = TinySource().packs(step)
    layers = len(maps) // len(packs)
    by_pack = [maps[i * layers : (i + 1) * layers] for i in range(len(packs))]
    return [
        torch.stack([m.nonzero()[:, 1].view(len(m), -1) for m in own], 1).numpy().astype(np.int16) for own in by_pack
    ]
