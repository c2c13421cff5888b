"""Play one rank of any job alone: models built inside are real but live on the meta device, without memory."""

import contextlib

import torch.distributed as dist


@contextlib.contextmanager
def meta_rank(rank, parallel):
    """Make this process a rank of the layout, in which collectives do nothing; for one rank after another."""
    import torch.distributed._tools.fake_collectives  # registers meta kernels for collectives
    from megatron.core import parallel_state, tensor_parallel
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from nemo_cascade.models.megatron import cpu
    from nemo_cascade.training import runtime

    dist.init_process_group("fake", rank=rank, world_size=parallel.layout.ranks, store=FakeStore())
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.layout.vpp if parallel.layout.vpp > 1 else None,
        context_parallel_size=parallel.context_parallel_size,
        create_gloo_process_groups=False,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(0)
    cpu.target.device = torch.device("meta")
    try:
        with torch.device("meta"):  # for the factories that are called without a device
            yield runtime.Runtime(rank=rank, world_size=parallel.layout.ranks, parallel=parallel, seed=0)
    finally:
        cpu.target.device = torch.device("cpu")
        runtime.stop()
