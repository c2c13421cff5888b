"""How training treats the router of a mixture of experts. Import-light."""

from collections.abc import Iterator

from pydantic import NonNegativeFloat, NonNegativeInt

from nemo_cascade.config.base import Fraction, block
from nemo_cascade.errors import CascadeError


@block
class RouterConfig:
    """How training treats the routers of a mixture of experts; a model without experts has none."""

    trainable: bool = True
    """Whether the router's weights are trained; reinforcement learning freezes them (arXiv 2512.20848)."""
    bias_update_rate: NonNegativeFloat = 1e-3
    """Added to, or taken from, the bias of every expert after each step, as it had fewer or more tokens than its share
    (arXiv 2408.15664, algorithm 1); only of routers with a bias, which a frozen router keeps moving; 0: never."""
    balance_coefficient: NonNegativeFloat = 0.0
    """Weight of the sequence-wise balance loss (arXiv 2412.19437, equations 17-20) of each document, beside the stage's
    own loss; per token of the global batch."""
    z_coefficient: NonNegativeFloat = 0.0
    """Weight of the z-loss, the squared log-sum-exp of the router's logits (arXiv 2202.08906, equation 5); likewise."""
    starving_share: Fraction = 0.05
    """An expert that got less than this part of an equal share of a step's tokens counts as starving; 0: none does."""

    def problems(self, key: str) -> Iterator[CascadeError]:
        """Yield what can't be had together."""
        if not self.trainable and self.balance_coefficient > 0:
            yield CascadeError(
                "a frozen router can't learn balance from a loss",
                value=f"{key}.trainable=false beside {key}.balance_coefficient={self.balance_coefficient:g}",
                mend=f"set {key}.balance_coefficient=0: the bias goes on balancing",
            )


@block
class RouterReplayConfig:
    """Rollout routing replay (R3, arXiv 2510.11370): tokens go to the experts that they went to in the engine."""

    enabled: bool = False
    """Engines return the experts of each token, and the policy's routers replay them where it scores and trains; their
    weights are those of its present logits. A reference model's routers choose for themselves."""
    measure_every: NonNegativeInt = 0
    """Steps between those whose rollouts are also scored without replay, one forward pass more: metrics
    logprob_difference_mean_unreplayed and _max_unreplayed; 0: never."""

    def problems(self, key: str) -> Iterator[CascadeError]:
        """Yield what can't be had together."""
        if self.measure_every and not self.enabled:
            yield CascadeError(
                "without replay there is nothing to compare it with",
                value=f"{key}.measure_every={self.measure_every} with {key}.enabled=false",
                mend=f"{key}.enabled=true, or {key}.measure_every=0",
            )
