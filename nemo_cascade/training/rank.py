"""One rank of a torch.distributed job, whatever works in it: where it stands, how it joins and leaves."""

import gc
from typing import Literal

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.training import runtime


class RankWorker:
    """A process's place in a job. Nothing heavy happens before it joins.

    Args:
        rank: rank in the job.
        world_size: number of ranks.
        master_addr: host of rank 0.
        master_port: free TCP port on that host.
        device: what this process computes on.
        threads: CPU threads.
        deterministic: refuse what may give other bits the next time.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        master_addr: str,
        master_port: int,
        device: Literal["cpu", "gpu"],
        threads: int,
        deterministic: bool = False,
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._master_addr, self._master_port = master_addr, master_port
        self._device, self._threads, self._deterministic = device, threads, deterministic
        self._runtime: runtime.Runtime | None = None
        if not gc.get_freeze_count():
            # What imports made stays as long as the process; each collection took a quarter of a second to walk it.
            gc.freeze()

    def _join(self, parallel: ParallelConfig, seed: int) -> runtime.Runtime:
        """Join the job, or lay its groups out anew where this process has joined before; return the place in it."""
        if self._runtime is not None:
            self._runtime.rebuild(parallel, seed)
            return self._runtime
        self._runtime = runtime.start(
            rank=self._rank,
            world_size=self._world_size,
            master_addr=self._master_addr,
            master_port=self._master_port,
            parallel=parallel,
            device=self._device,
            threads=self._threads,
            seed=seed,
            deterministic=self._deterministic,
        )
        return self._runtime

    def _leave(self) -> None:
        """Leave the job, if it was joined."""
        if self._runtime is not None:
            self._runtime.stop()
            self._runtime = None
