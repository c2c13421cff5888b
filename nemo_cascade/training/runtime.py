"""One Megatron rank's runtime: torch.distributed, process groups, random state, device; start, rebuild, stop."""

import atexit
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from nemo_cascade.config.layout import Layout
from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.errors import ConfigError, RuntimeUnavailableError
from nemo_cascade.models.axes import Axes
from nemo_cascade.models.megatron import backend  # before anything of megatron
from nemo_cascade.training.axes import clear, current_axes, lay_out

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""A collective that takes longer has lost a partner."""

device = backend.device
synchronize = backend.synchronize
empty_cache = backend.empty_cache
peak_memory_bytes = backend.peak_memory_bytes


@dataclass(slots=True)
class Runtime:
    """This process's place in the job; valid from `start` until `stop`.

    Attributes:
        rank: global rank.
        world_size: number of ranks.
        parallel: the layout of the process groups that exist now.
        seed: seed of the model-parallel random states.
    """

    rank: int
    world_size: int
    parallel: ParallelConfig
    seed: int

    @property
    def axes(self) -> Axes:
        """This rank's place on every axis of the layout."""
        return current_axes()

    @property
    def reports(self) -> bool:
        """Whether this rank's per-token results count: last stage, first tensor and context rank."""
        axes = self.axes
        return axes["pp"].last and axes["tp"].first and axes["cp"].first

    def rebuild(self, parallel: ParallelConfig, seed: int) -> None:
        """Replace the process groups by those of another layout, and reseed. Collective.

        The same layout keeps its groups. Models and optimizers of the old layout are void.

        Raises:
            ConfigError: the layout doesn't have as many ranks as there are.
        """
        if parallel != self.parallel:
            _check_size(parallel.layout, self.world_size)
            clear()
            lay_out(parallel.layout, COLLECTIVE_TIMEOUT)
            self.parallel = parallel
        self.seed = seed
        _seed(seed)

    def stop(self) -> None:
        """Leave the job; without it gloo's threads may abort the process while it exits. Idempotent."""
        stop()


def start(
    *,
    rank: int,
    world_size: int,
    master_addr: str,
    master_port: int,
    parallel: ParallelConfig,
    device: Literal["cpu", "gpu"],
    threads: int,
    seed: int,
    deterministic: bool = False,
) -> Runtime:
    """Join the job and build the layout's process groups. Collective; once per process until `stop`.

    Args:
        rank: this process's global rank.
        world_size: number of processes.
        master_addr: host of rank 0.
        master_port: free TCP port on that host.
        parallel: layout; its size must be world_size.
        device: gpu (NCCL, this process sees its own GPU first) or cpu (gloo).
        threads: CPU threads of torch in this process.
        seed: seed of the model-parallel random states.
        deterministic: refuse what may give other bits the next time.

    Raises:
        ConfigError: the layout doesn't have world_size ranks.
        RuntimeUnavailableError: no GPU is visible, or one is although the CPU was asked for.
    """
    _check_size(parallel.layout, world_size)
    if device == "gpu" and not backend.HAS_GPU:
        raise RuntimeUnavailableError(
            "cluster.device=gpu, but this process sees no CUDA GPU", mend="set cluster.device=cpu, or mend the driver"
        )
    if device == "cpu" and backend.HAS_GPU:
        raise RuntimeUnavailableError(
            "cluster.device=cpu, but this process sees a GPU and has set Megatron-Core up for it",
            mend="start the process with CUDA_VISIBLE_DEVICES set to nothing",
        )
    assert not dist.is_initialized(), "start() was called twice; use Runtime.rebuild()"
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")  # containers come with TF32 switched on
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nobody reads it
    if backend.HAS_GPU:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(
        "nccl" if backend.HAS_GPU else "gloo",
        init_method=f"tcp://{master_addr}:{master_port}",
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    atexit.register(stop)
    lay_out(parallel.layout, COLLECTIVE_TIMEOUT)
    _seed(seed)
    return Runtime(rank=rank, world_size=world_size, parallel=parallel, seed=seed)


def stop() -> None:
    """Destroy all process groups of this process. Idempotent."""
    if dist.is_initialized():
        clear()
        dist.destroy_process_group()
    atexit.unregister(stop)


def _seed(seed: int) -> None:
    from megatron.core import tensor_parallel

    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def _check_size(layout: Layout, world_size: int) -> None:
    if layout.ranks != world_size:
        raise ConfigError([f"{layout} is {layout.ranks} ranks, but there are {world_size}"])
