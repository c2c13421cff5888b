"""Test-time scaling of a suite: several patches of a prompt are drawn, and the one that is handed in is scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import TYPE_CHECKING

from pydantic import NonNegativeInt

from nemo_cascade.config.base import block
from nemo_cascade.config.rollout import SamplingConfig, room_problems
from nemo_cascade.config.verifiers.repositories import RegressionSettings, ReproductionSettings
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig, SuiteConfig

_REPAIRS = ("swe_execute", "swe_repair")


@block
class PickConfig:
    """Best@k as Agentless has it (evaluation/picking.py): of the `samples_per_prompt` patches of a prompt the one is
    scored that its repository's own tests, reproduction tests and a vote pick.
    """

    reproduction_tests: NonNegativeInt = 10
    """Reproduction tests that the model is asked for, of each prompt; those that pass before a patch, too, count for
    none (arXiv 2512.13607, section 4.7: 10, and 40 for test-time scaling). 0: none are written."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How these tests are drawn."""
    regression: RegressionSettings = field(default_factory=RegressionSettings)
    """How a repository's own tests are run."""
    reproduction: ReproductionSettings = field(default_factory=ReproductionSettings)
    """How reproduction tests are run."""

    def problems(self, run: RunConfig, key: str, suite: SuiteConfig) -> Iterator[CascadeError]:
        """Yield why nothing can be picked in a suite.

        Args:
            run: the run's configuration.
            key: the suite's place.
            suite: whose samples are picked from.
        """
        if suite.samples_per_prompt < 2:
            value, mend = f"{key}.samples_per_prompt={suite.samples_per_prompt}", f"{key}.samples_per_prompt=8"
            yield CascadeError("one patch is no choice", value=value, limit="at least 2", mend=mend)
        if suite.reward.kind not in _REPAIRS:
            yield CascadeError(
                "only patches can be picked from",
                value=f"{key}.reward.kind={suite.reward.kind}",
                limit=", ".join(_REPAIRS),
                mend=f"{key}.reward.kind={_REPAIRS[0]}, or {key}.pick=null",
            )
        if suite.environment.kind != "single_turn":
            yield CascadeError(
                "only answers of one turn can be picked from",
                value=f"{key}.environment.kind={suite.environment.kind}",
                limit="single_turn",
                mend=f"{key}.pick=null",
            )
        yield from room_problems(run.rollout, f"{key}.pick", self.sampling)
        if self.sampling.temperature == 0 and self.reproduction_tests > 1:
            value = f"{key}.pick.reproduction_tests={self.reproduction_tests}"
            mend = f"{key}.pick.reproduction_tests=1, or {key}.pick.sampling.temperature=1.0"
            yield CascadeError("greedy tests are all the same", value=value, limit=1, mend=mend)
