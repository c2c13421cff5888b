"""Start vLLM's engine."""

from pathlib import Path
from typing import Any

from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.errors import RuntimeUnavailableError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.rollout.buckets import DTYPES
from nemo_cascade.rollout.environment import Device, prepare_vllm

GIB = 1 << 30


def start_engine(path: Path, arch: Architecture, config: RolloutConfig, seed: int, threads: int, device: Device) -> Any:
    """Return vLLM's engine for a model, set up to be stepped by hand, the same way each time.

    Raises:
        RuntimeUnavailableError: no vLLM for the device, or more processes than it can have there.
    """
    if device == "cpu" and config.tensor_parallel_size > 1:
        raise RuntimeUnavailableError(
            "an engine on CPU has one process",
            value=f"rollout.tensor_parallel_size={config.tensor_parallel_size}",
            limit=1,
            mend="use rollout.num_engines instead",
        )
    prepare_vllm(device, threads)
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from nemo_cascade.rollout import vllm_worker

    batched_tokens = max(config.max_num_batched_tokens, config.max_num_seqs)
    by_device: dict[str, Any] = {
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "num_gpu_blocks_override": config.kv_cache_blocks,
        "enable_prefix_caching": True,
    }
    if device == "cpu":
        # A prompt that is prefilled in pieces has its seeded generator rewound after each, which torch's CPU generators
        # can't do: prompts go in whole, so one must fit.
        batched_tokens = max(batched_tokens, config.max_model_len)
        by_device = {
            "kv_cache_memory_bytes": int(config.kv_cache_gib * GIB),
            "enable_chunked_prefill": False,
            # The states of a state space are cached at the ends of pieces only.
            "enable_prefix_caching": arch.mamba is None,
        }
    arguments = EngineArgs(
        model=str(path),
        dtype=DTYPES[config.dtype],
        seed=seed,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=batched_tokens,
        block_size=config.block_size,
        enforce_eager=config.enforce_eager,
        tensor_parallel_size=config.tensor_parallel_size,
        async_scheduling=False,  # a batch must not depend on how fast the host is
        logprobs_mode="processed_logprobs",
        generation_config="vllm",  # sampling is ours alone, never the folder's
        skip_tokenizer_init=True,
        disable_log_stats=True,
        load_format="safetensors",
        weight_transfer_config=WeightTransferConfig(backend=vllm_worker.TRANSFER),
        worker_extension_cls=f"{vllm_worker.__name__}.{vllm_worker.WorkerExtension.__name__}",
        **by_device,
    )
    return LLMEngine.from_engine_args(arguments)
