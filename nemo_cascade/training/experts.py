"""The load of a mixture of experts: counted over a step, told, and balanced by the routers' biases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from nemo_cascade.config.router import RouterConfig
from nemo_cascade.models.axes import Axes
from nemo_cascade.models.megatron.router import routers_of

_log = logging.getLogger(__name__)


class ExpertLoad:
    """The routers of this rank's chunks, through one training step after the other.

    Args:
        chunks: bare; whoever wraps them for training does so afterwards, for frozen routers must be frozen by then.
        config: how routers are treated.
        axes: this rank's place.
    """

    def __init__(self, chunks: Sequence[Any], config: RouterConfig, axes: Axes) -> None:
        self._config, self._axes = config, axes
        self._most_starving = 0.0
        self._routers = {number: router for chunk in chunks for number, router in routers_of(chunk).items()}
        for chunk in chunks:
            # Megatron would move the biases before anybody has seen whether the step is finite.
            chunk.config.moe_router_enable_expert_bias = False
        for router in self._routers.values():
            router.weight.requires_grad_(config.trainable)
            router.balance_coefficient, router.z_coefficient = config.balance_coefficient, config.z_coefficient

    def begin(self, units: int, tokens: int) -> None:
        """Begin a step.

        Args:
            units: what the step's gradients will be divided by.
            tokens: of the global batch; what the routers' losses are divided by.
        """
        for router in self._routers.values():
            router.forget()
            router.loss_weight = units / tokens

    def end(self, tokens: int, *, finite: bool) -> dict[str, float]:
        """End a step: move the biases where it was finite, and return what there is to tell; collective.

        Returns:
            Of all layers, the same on every rank: the largest and smallest load of an expert in shares of an equal one,
            how many starved, and the losses per token. Of each layer: its largest and smallest load.
        """
        told: dict[str, float] = {}
        stage, stages = self._axes["stage"], self._axes["pp"]
        if self._routers:
            numbers = torch.stack([torch.cat([r.load_E, r.losses_2]) for r in self._routers.values()])
            dist.all_reduce(numbers, group=stage.group)
            loads_NE, losses_2 = numbers[:, :-2], numbers[:, -2:].sum(0)
            for router, load_E in zip(self._routers.values(), loads_NE, strict=True):
                if finite and router.expert_bias is not None:
                    router.expert_bias += self._config.bias_update_rate * (load_E.mean() - load_E).sign().float()
            shares_NE = (loads_NE / loads_NE.mean(-1, keepdim=True).clamp(min=1e-9)).tolist()
            told = _told(dict(zip(self._routers, shares_NE, strict=True)), self._config.starving_share)
            told |= {"router_balance_loss": float(losses_2[0]) / tokens, "router_z_loss": float(losses_2[1]) / tokens}
        if stages.size > 1:
            every: list[Any] = [None] * stages.size
            dist.all_gather_object(every, told, group=stages.group)
            told = _merged(every)
        if dist.get_rank() == 0 and told.get("experts_starving", 0) > self._most_starving:
            self._most_starving = told["experts_starving"]
            _log.warning(
                "%d experts got less than %g of an equal share of this step's tokens, more than ever in this stage "
                "(the least %.3f, the most %.2f): look at expert_load_min and expert_load_max in metrics.jsonl",
                told["experts_starving"],
                self._config.starving_share,
                told["expert_load_min"],
                told["expert_load_max"],
            )
        if not self._config.balance_coefficient:
            told.pop("router_balance_loss", None)
        if not self._config.z_coefficient:
            told.pop("router_z_loss", None)
        return told


def _told(shares: dict[int, list[float]], starving: float) -> dict[str, float]:
    by_layer = {
        f"expert_load_{name}_layer_{number:02d}": of(own)
        for number, own in shares.items()
        for name, of in (("max", max), ("min", min))
    }
    everyone = [share for own in shares.values() for share in own]
    return by_layer | {
        "expert_load_max": max(everyone),
        "expert_load_min": min(everyone),
        "experts_starving": float(sum(share < starving for share in everyone)),
    }


def _merged(stages: Sequence[dict[str, float]]) -> dict[str, float]:
    """Join what pipeline stages tell: largest, smallest, and sums."""
    merged: dict[str, float] = {}
    for name, value in (item for told in stages for item in told.items()):
        known = merged.get(name)
        if known is None:
            merged[name] = value
        elif name.startswith("expert_load_max"):
            merged[name] = max(known, value)
        elif name.startswith("expert_load_min"):
            merged[name] = min(known, value)
        else:
            merged[name] = known + value
    return dict(sorted(merged.items()))
