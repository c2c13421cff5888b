"""The decision after a stage: the run's rules, and what a stage changes in them."""

from dataclasses import field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from nemo_cascade.config.base import block

OnRegression = Literal["recover", "checkpoint", "merge", "rollback", "hold", "promote"]
Share = Annotated[float, Field(gt=0, lt=1)]


@block
class GateConfig:
    """The decision after a stage, against the parent's scores on the same prompts (cascade/gate.py)."""

    alpha: Share = 0.05
    """Error rate of the whole cascade: the chance, at most, that some gate calls a promise to hold broken that was
    kept, and that some gate finds an improvement that isn't there. The gates and their domains share it."""
    tolerance: NonNegativeFloat = 0.02
    """A domain may fall by this much (times its suite's score_span); only a fall that is shown to be larger is a
    regression."""
    unacceptable_fall: PositiveFloat | None = None
    """A fall (times the suite's score_span) that a gate must find with a probability of 90 %; a plan with a suite too
    small for that says so. null: 0.13 more than the tolerance."""
    on_regression: OnRegression = "recover"
    """checkpoint: go on from the best of the stage's other checkpoints that keeps every promise; merge: from the best
    mean of the parent's and the stage's weights that does; recover: the first of these that there is; where there is
    none, all three roll back; rollback: go on from the parent; hold: stop the cascade until `nemo-cascade decide` says
    how it goes on; promote: go on and record it. A reward model that is rolled back takes along the stages that need
    it."""
    merge_ratios: list[Share] = field(default_factory=lambda: [0.25, 0.5, 0.75])
    """recover, merge: shares of the stage's weights that are tried, the rest is the parent's; each is scored on all
    domains (arXiv 2508.14444, Nemotron Nano 2, sweeps 0.1 to 0.9: about 0.5 is best)."""


@block
class GateOverride:
    """What a stage sets differently from the run's `gate`; null: as there."""

    alpha: Share | None = None
    """Error rate of the cascade, of which this stage's gate takes its equal part."""
    tolerance: NonNegativeFloat | None = None
    """A domain may fall by this much (times its suite's score_span)."""
    unacceptable_fall: PositiveFloat | None = None
    """A fall that this gate must find with a probability of 90 %."""
    on_regression: OnRegression | None = None
    """What follows where the stage breaks a promise."""
    merge_ratios: list[Share] | None = None
    """recover, merge: shares of the stage's weights that are tried."""

    def applied_to(self, gate: GateConfig) -> GateConfig:
        """Return the gate with these changes."""
        changes: dict[str, Any] = {name: value for name, value in vars(self).items() if value is not None}
        return replace(gate, **changes)
