"""What a run sets so that the same start gives the same bits, and what its record says about that.

On a CPU with gloo everything is repeatable as it is. On a GPU kernels and collectives choose among algorithms that add
in another order; `cluster.deterministic` takes the choice away from all of them, on the trainer's side (Transformer
Engine, cuBLAS, NCCL, torch, Megatron-Core) and on the engine's (vLLM's batches, its number of KV cache blocks).
The variables are those that Megatron-LM (--deterministic-mode) and vLLM (batch invariance) name; that they suffice was
read there and has not been measured on a GPU.
"""

from typing import Any

from nemo_cascade.config.checks import host
from nemo_cascade.config.schema import ClusterConfig, RunConfig

_TRAINER_AND_ENGINE = {
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # The fastest algorithm is chosen by measuring otherwise.
    "NCCL_ALGO": "Ring",
    "VLLM_BATCH_INVARIANT": "1",
}


def repeatable_environment(cluster: ClusterConfig) -> dict[str, str]:
    """Return the variables of every process that computes; none on a CPU, or where it was not asked for."""
    wanted = cluster.deterministic and host.resolved_device(cluster) == "gpu"
    return dict(_TRAINER_AND_ENGINE) if wanted else {}


def repeatability(config: RunConfig) -> dict[str, Any]:
    """Return what a run's record says: whether the same start gives the same bits, and by what."""
    device = host.resolved_device(config.cluster)
    if device == "cpu":
        return {"device": device, "same_bits": "yes: with the same packages, threads and processor"}
    if not config.cluster.deterministic:
        return {"device": device, "same_bits": "no: cluster.deterministic=false"}
    return {
        "device": device,
        "same_bits": "all that is known to be needed was set; not proven on this device",
        "environment": repeatable_environment(config.cluster),
        "torch.use_deterministic_algorithms": True,
        "megatron.deterministic_mode": True,
        "vllm.num_gpu_blocks_override": config.rollout.kv_cache_blocks,
    }
