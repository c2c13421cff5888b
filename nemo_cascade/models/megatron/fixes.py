"""Mend what Megatron-Core gets wrong without CUDA, Transformer Engine and Apex. Installed by `models.megatron.cpu`.

Seen in megatron-core 0.16.1; users of Transformer Engine's fused Adam never meet these:
1. `DistributedOptimizer.state_dict()` refuses an Adam whose state is still empty; torch's Adam fills it lazily.
2. Loading a `fully_reshardable` checkpoint misses the key `step`; a `dp_reshardable` one resets it silently.
3. After loading, all parameters share one `step` tensor, so each update advances the bias correction N times.
4. Selective recomputation and the MoE router refer to Transformer Engine names that were never imported.
5. Experts that are split over tensor-parallel ranks gather and scatter unequal shares, which only NCCL can.
"""

import contextlib
import logging
import types
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist


def install() -> None:
    """Mend the modules; imports megatron, so `models.megatron.cpu` must have redirected CUDA already."""
    from nemo_cascade.models.megatron import state_space

    _silence()
    _mend_random_state()
    _mend_moe()
    _mend_uneven_shares()
    state_space.install()
    mend_without_transformer_engine()


def mend_without_transformer_engine() -> None:
    """Mend what breaks on any device where torch's Adam and local layers stand in for Transformer Engine's."""
    _silence()
    _mend_recompute()
    _mend_distributed_optimizer()


def fill_adam_state(optimizer: Any) -> None:
    """Give torch's lazy Adam its (zero) state; call once after `get_megatron_optimizer`, before any state dict.

    Args:
        optimizer: a Megatron optimizer, chained or not. Optimizers whose state is filled are left alone.
    """
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        inner = part.optimizer
        for group in inner.param_groups:
            for param in group["params"]:
                if not inner.state[param]:
                    inner.state[param] = {
                        "step": torch.tensor(0.0),
                        "exp_avg": torch.zeros_like(param.data),
                        "exp_avg_sq": torch.zeros_like(param.data),
                    }


def _silence() -> None:
    # Megatron-Core says at import what is absent, which is known here, and later what it itself calls in torch and in
    # its own configuration by an outdated name, which no user can change.
    for message in (
        "(Apex|Transformer Engine).*not installed",
        "full scope is deprecated",
        ".*torch.distributed.* is deprecated",
        "When using .* set the environment variable CUDA_DEVICE_MAX_CONNECTIONS",
    ):
        warnings.filterwarnings("ignore", message=message)


def _mend_random_state() -> None:
    import megatron.core.tensor_parallel.random as module

    # Here the device's random state is the CPU's, which Megatron warns of each time that one is drawn from.
    logging.getLogger(module.__name__).addFilter(lambda record: "CPU RNG state changed" not in record.getMessage())
    module._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    module._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)


def _mend_recompute() -> None:
    import megatron.core.tensor_parallel.random as module

    if not hasattr(module, "FP8GlobalStateManager"):
        module.FP8GlobalStateManager = types.SimpleNamespace(is_fp8_enabled=lambda: False)
        module.activation_recompute_forward = module.fp8_autocast = lambda *args, **kwargs: contextlib.nullcontext()


def _mend_moe() -> None:
    import megatron.core.transformer.moe.moe_utils as utils
    import megatron.core.transformer.moe.token_dispatcher as dispatcher

    if not hasattr(utils, "te_general_gemm"):
        utils.te_general_gemm = None

    def to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        # The original only converts CUDA tensors, although its callers need numpy.
        return tensor.detach().numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    utils.maybe_move_tensor_to_cpu = dispatcher.maybe_move_tensor_to_cpu = to_host


def _mend_uneven_shares() -> None:
    """Let experts be split over ranks that have other numbers of tokens: gloo's collectives know equal shares only."""
    import megatron.core.tensor_parallel.mappings as module

    gather, reduce_scatter = module._gather_along_first_dim, module._reduce_scatter_along_first_dim

    def gather_uneven(
        share: torch.Tensor, group: Any, output_split_sizes: list[int] | None = None, use_global_buffer: bool = False
    ) -> torch.Tensor:
        if output_split_sizes is None or group.size() == 1:
            whole: torch.Tensor = gather(share, group, output_split_sizes, use_global_buffer)
            return whole
        padded = share.new_zeros((max(output_split_sizes), *share.shape[1:]))
        padded[: len(share)] = share
        parts = [torch.empty_like(padded) for _ in output_split_sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, output_split_sizes, strict=True)])

    def reduce_scatter_uneven(
        whole: torch.Tensor, group: Any, input_split_sizes: list[int] | None = None, use_global_buffer: bool = False
    ) -> torch.Tensor:
        if input_split_sizes is None or group.size() == 1:
            share: torch.Tensor = reduce_scatter(whole, group, input_split_sizes, use_global_buffer)
            return share
        summed = whole.clone()
        dist.all_reduce(summed, group=group)
        return summed.split(input_split_sizes)[group.rank()].contiguous()

    module._gather_along_first_dim = gather_uneven
    module._reduce_scatter_along_first_dim = reduce_scatter_uneven


def _mend_distributed_optimizer() -> None:
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    set_states = DistributedOptimizer._set_main_param_and_optimizer_states
    load = DistributedOptimizer.load_state_dict

    def set_states_with_step(self: Any, model_param: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> Any:
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        if "step" in state:
            tensors = {**tensors, "step": state["step"]}
        with torch.no_grad():  # fp32 shards are views of leaf parameters
            return set_states(self, model_param, tensors)

    def load_with_own_steps(self: Any, state_dict: Any) -> Any:
        result = load(self, state_dict)
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"].clone()
        return result

    DistributedOptimizer._set_main_param_and_optimizer_states = set_states_with_step
    DistributedOptimizer.load_state_dict = load_with_own_steps
