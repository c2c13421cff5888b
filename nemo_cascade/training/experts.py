"""The load of a mixture of experts: counted over a step, told, and balanced by the routers' biases."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from nemo_cascade.config.router import RouterConfig
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.axes import Axes
from nemo_cascade.models.megatron.router import routers_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What one step did with the experts, the same on every rank; nothing in a model without any.

    Attributes:
        shares: by layer, counted from 0, each expert's tokens in shares of an equal one.
        losses: sums over tokens and layers of the balance loss and the z-loss.
        choices: sums over tokens and layers of the routers' choices, those that were given to be replayed, and of those
            the ones that the router would have made otherwise.
    """

    shares: dict[int, list[float]] = field(default_factory=dict)
    losses: tuple[float, float] = (0.0, 0.0)
    choices: tuple[float, float, float] = (0.0, 0.0, 0.0)


class ExpertLoad:
    """The routers of this rank's chunks, through one training step after the other.

    Args:
        chunks: bare; whoever wraps them for training does so afterwards, for frozen routers must be frozen by then.
        arch: of the whole model.
        config: how routers are treated.
        axes: this rank's place.
    """

    def __init__(self, chunks: Sequence[Any], arch: Architecture, config: RouterConfig, axes: Axes) -> None:
        self._config, self._axes, self._experts = config, axes, arch.experts
        self._most_starving = 0
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

    def end(self, tokens: int, *, finite: bool) -> tuple[dict[str, float], dict[str, float]]:
        """End a step: move the biases where it was finite, and return what there is to tell; collective.

        Returns:
            Metrics: the largest and smallest load of an expert in shares of an equal one, how many experts starved, the
            losses per token, and where choices were replayed their share of all, and the share of them that the
            router would have made otherwise (choices of a token in a layer). And by name the load of every expert.
        """
        if self._experts is None:
            return {}, {}
        load = self._counted(finite)
        everyone = [share for own in load.shares.values() for share in own]
        starving = sum(share < self._config.starving_share for share in everyone)
        metrics = {
            "expert_load_max": max(everyone),
            "expert_load_min": min(everyone),
            "experts_starving": float(starving),
        }
        if self._config.balance_coefficient > 0:
            metrics["router_balance_loss"] = load.losses[0] / tokens
        if self._config.z_coefficient > 0:
            metrics["router_z_loss"] = load.losses[1] / tokens
        every, given, other = load.choices
        if given:
            metrics |= {"router_replay_share": given / every, "router_replay_disagreement": other / given}
        if dist.get_rank() == 0 and starving > self._most_starving:
            self._most_starving = starving
            _log.warning(
                "%d experts got less than %g of an equal share of this step's tokens, more than ever in this stage "
                "(the least %.3f, the most %.2f): look at expert_load in metrics.jsonl",
                starving,
                self._config.starving_share,
                metrics["expert_load_min"],
                metrics["expert_load_max"],
            )
        by_name = {
            f"layer_{layer:02d}_expert_{number:03d}": round(share, 4)
            for layer, own in sorted(load.shares.items())
            for number, share in enumerate(own)
        }
        return metrics, by_name

    def _counted(self, finite: bool) -> StepLoad:
        """Add up all ranks' tokens, move this stage's biases, and tell all stages."""
        load = StepLoad()
        if self._routers:
            numbers = torch.stack([torch.cat([r.load_E, r.losses_2, r.replayed_2]) for r in self._routers.values()])
            dist.all_reduce(numbers, group=self._axes["stage"].group)
            loads_NE, sums = numbers[:, :-4], numbers[:, -4:].sum(0).tolist()
            for router, load_E in zip(self._routers.values(), loads_NE, strict=True):
                if finite and router.expert_bias is not None:
                    router.expert_bias += self._config.bias_update_rate * (load_E.mean() - load_E).sign().float()
            shares_NE = (loads_NE / loads_NE.mean(-1, keepdim=True).clamp(min=1e-9)).tolist()
            made = float(loads_NE.sum()) / next(iter(self._routers.values())).topk
            by_layer = dict(zip(self._routers, shares_NE, strict=True))
            load = StepLoad(by_layer, (sums[0], sums[1]), (made, sums[2], sums[3]))
        stages = self._axes["pp"]
        if stages.size == 1:
            return load
        every: list[Any] = [None] * stages.size
        dist.all_gather_object(every, load, group=stages.group)
        return StepLoad(
            {layer: own for stage in every for layer, own in stage.shares.items()},
            (sum(stage.losses[0] for stage in every), sum(stage.losses[1] for stage in every)),
            (
                sum(stage.choices[0] for stage in every),
                sum(stage.choices[1] for stage in every),
                sum(stage.choices[2] for stage in every),
            ),
        )
