"""What runs inside vLLM's own worker: the shared-memory weight transfer and the probe's temperature.

vLLM imports this module in every worker process (`worker_extension_cls`) before it loads the model. Importing it
registers the transfer with vLLM's weight-transfer interface and, on a machine without a GPU, keeps weights unpacked.
"""

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed import get_tp_group
from vllm.distributed.weight_transfer import base
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.platforms import current_platform

from nemo_cascade.models.architecture import Architecture
from nemo_cascade.rollout.buckets import OpenBucket, WeightBucket
from nemo_cascade.rollout.held_weights import HeldSlice, held_slices
from nemo_cascade.rollout.routed_experts import ExpertRecorder
from nemo_cascade.types import RoutedExperts

TRANSFER = "nemo_cascade_shared_memory"


@dataclass
class TransferInit(base.WeightTransferInitInfo):  # type: ignore[misc]
    """Nothing to agree on: manifests travel with the buckets."""


@dataclass
class TransferUpdate(base.WeightTransferUpdateInfo):  # type: ignore[misc]
    """One bucket."""

    bucket: WeightBucket


class SharedMemoryTransfer(base.WeightTransferEngine[TransferInit, TransferUpdate]):  # type: ignore[misc]
    """Load weights from bucket files; remembers which of the model's parameters were written.

    Attributes:
        written: names of the engine's own parameters that the present or last hand-over reached.
    """

    init_info_cls = TransferInit
    update_info_cls = TransferUpdate
    written: set[str]

    def init_transfer_engine(self, init_info: TransferInit) -> None:
        """Do nothing: there is no connection to open."""

    def start_weight_update(self) -> None:
        """Begin a hand-over. Layers whose kernels hold repacked copies are set up for reloading, on a GPU."""
        self.written = set()
        if not current_platform.is_cpu():
            from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: TransferUpdate) -> None:
        """Load one bucket, whose hash was checked before it was given to vLLM."""
        with OpenBucket(update_info.bucket) as bucket:
            self.written |= self.model.load_weights(bucket.tensors()) or set()

    def finish_weight_update(self) -> None:
        """End a hand-over, complete or not."""
        if not current_platform.is_cpu():
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

            finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Do nothing: no bucket stays open."""


class WorkerExtension:
    """Methods that vLLM adds to its worker class; called through `collective_rpc`."""

    model_runner: Any
    weight_transfer_engine: SharedMemoryTransfer
    expert_recorder: ExpertRecorder

    def unwritten_parameters(self) -> list[str]:
        """Return the parameters of this worker's model that the last hand-over did not reach."""
        names = (name for name, _ in self.model_runner.get_model().named_parameters())
        return sorted(name for name in names if name not in self.weight_transfer_engine.written)

    def held_slices(self, arch: Architecture) -> list[HeldSlice]:
        """Sum what this worker's model holds, slice by slice of the HF tensors."""
        group = get_tp_group()
        return held_slices(self.model_runner.get_model(), arch, group.rank_in_group, group.world_size)

    def record_experts(self, layers: tuple[int, ...], chosen: int) -> None:
        """Keep which experts tokens go to, from now on: `chosen` of them in each of these layers."""
        self.expert_recorder = ExpertRecorder(self.model_runner, layers, chosen)

    def routed_experts(self, requests: list[tuple[str, int]]) -> list[RoutedExperts]:
        """Return the experts of the first so many tokens of requests that just ended, [tokens, layers, experts]."""
        return [self.expert_recorder.of_request(name, tokens) for name, tokens in requests]

    def set_probe_temperature(self, temperature: float) -> None:
        """Scale the log-probs of prompt tokens, which vLLM always computes at temperature 1. 1 restores vLLM's own."""
        sampler = self.model_runner.sampler
        if temperature == 1.0:
            sampler.__dict__.pop("compute_logprobs", None)
        else:
            sampler.compute_logprobs = lambda logits: (
                logits.to(torch.float32).div(temperature).log_softmax(dim=-1, dtype=torch.float32)
            )


def _register() -> None:
    if TRANSFER not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(TRANSFER, SharedMemoryTransfer)
    if current_platform.is_cpu():
        from nemo_cascade.rollout import vllm_cpu

        vllm_cpu.install()


_register()
