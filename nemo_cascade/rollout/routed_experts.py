"""Which experts an engine's tokens go to, kept inside vLLM's worker until their request ends.

vLLM's own `enable_return_routed_experts` needs its second model runner, and so Triton. Its hooks in the routers don't:
they hand out each layer's choices of a forward pass. Here these are kept by the slot of the KV cache that a token's
keys lie in, so that what other requests computed, a prefix that is shared, is found like what this one did. They take
2 bytes for each expert of a token in each layer, of as many tokens as the KV cache holds.

Shapes: T tokens of a forward pass, S slots of the KV cache, L layers with experts, K experts of a token.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.fused_moe.routed_experts_capturer import bind_routed_experts_capturer
from vllm.v1.kv_cache_interface import AttentionSpec

from nemo_cascade.errors import RolloutError
from nemo_cascade.types import RoutedExperts


class ExpertRecorder:
    """The choices behind everything that the KV cache holds.

    Args:
        runner: vLLM's model runner, ready to run.
        layers: the model's layers with experts, counted from 0.
        chosen: experts of a token.

    Raises:
        RolloutError: the model keeps no keys of its tokens, or vLLM can't tell this model's choices.
    """

    def __init__(self, runner: Any, layers: Sequence[int], chosen: int) -> None:
        groups = runner.kv_cache_config.kv_cache_groups
        attention = [i for i, group in enumerate(groups) if isinstance(group.kv_cache_spec, AttentionSpec)]
        if not attention:
            raise RolloutError(
                "an engine without attention can't return which experts its tokens went to",
                value=f"{len(groups)} caches of states alone",
                limit="a layer of attention, by whose slots they are kept",
                mend="set router_replay.enabled=false",
            )
        self._runner, self._group = runner, attention[0]
        self._by_layer = groups[self._group].layer_names[0]
        self._place = {layer: place for place, layer in enumerate(layers)}
        slots = runner.kv_cache_config.num_blocks * groups[self._group].kv_cache_spec.block_size
        # Padding has slot -1: what is written there goes to a last row that nobody reads.
        shape = (slots + 1, len(layers), chosen)
        self._chosen_SLK = torch.full(shape, -1, dtype=torch.int16, device=runner.device)
        try:
            bind_routed_experts_capturer(runner.get_model(), self)
        except ValueError as error:
            mend = "set router_replay.enabled=false"
            raise RolloutError("vLLM can't return which experts this model chooses", value=error, mend=mend) from error

    def capture(self, layer_id: int, topk_ids: Tensor) -> None:
        """Keep a layer's choices of a forward pass, [T, K]; vLLM's routers call this."""
        slots = get_forward_context().slot_mapping
        if isinstance(slots, dict) and self._by_layer in slots:  # not of the dummy runs that measure memory
            slot_T = slots[self._by_layer][: len(topk_ids)]
            self._chosen_SLK[slot_T, self._place[layer_id]] = topk_ids[: len(slot_T)].to(torch.int16)

    def of_request(self, name: str, tokens: int) -> RoutedExperts:
        """Return the choices of a request's first tokens, [tokens, L, K], while the runner still holds its blocks.

        Raises:
            RolloutError: it doesn't any more, or they were never computed.
        """
        table = self._runner.input_batch.block_table[self._group]
        row = self._runner.input_batch.req_id_to_index.get(name)
        if row is None or table.num_blocks_per_row[row] * table.block_size < tokens:
            raise RolloutError("the engine has forgotten a request before it told its experts", value=name)
        place_T = torch.arange(tokens)
        block_T = torch.from_numpy(table.get_numpy_array()[row].copy())[place_T // table.block_size].long()
        slot_T = block_T * table.block_size + place_T % table.block_size
        chosen: RoutedExperts = self._chosen_SLK[slot_T.to(self._chosen_SLK.device)].cpu().numpy()
        if (chosen < 0).any():
            missing = int((chosen < 0).any((1, 2)).sum())
            raise RolloutError("the engine doesn't know where tokens went", value=f"{name}: {missing} of {tokens}")
        return chosen
