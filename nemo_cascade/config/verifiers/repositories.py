"""Settings of the verifiers of software engineering (arXiv 2512.13607, section 4.7): patches, tests, places."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from nemo_cascade.config.base import Fraction, block
from nemo_cascade.config.verifiers.base import JudgeSettings, Settings


@block
class RepairSettings(Settings):
    """Settings of `swe_repair`."""

    kind: Literal["swe_repair"] = "swe_repair"
    otherwise: Literal["judge", "similarity"] = "similarity"
    """Who scores a patch that fits, changes the code and isn't the golden one."""
    floor: Fraction = 0.0
    """Such scores below it become 0 (an ablation of arXiv 2512.13607: 0.5)."""
    judge: JudgeSettings | None = None
    """otherwise=judge: who is asked."""

    @model_validator(mode="after")
    def _judged(self) -> RepairSettings:
        if (self.otherwise == "judge") != (self.judge is not None):
            raise ValueError("judge={url, model} with otherwise=judge, null with otherwise=similarity")
        return self


@block
class RepositoryTestSettings(Settings):
    """What the verifiers have that run tests on a repository's files, before a change and after it."""

    limits: ClassVar[frozenset[str]] = frozenset({"test_s", "memory_mib"})

    test_s: PositiveFloat = 20.0
    """CPU seconds of all runs on one state of the files together."""
    memory_mib: PositiveInt = 512
    """Memory of one run."""

    @property
    def needs_s(self) -> float:
        """The CPU seconds of both states."""
        return 2 * self.test_s


@block
class ExecuteSettings(RepositoryTestSettings):
    """Settings of `swe_execute`; the tests run on the response's patch and, once, on the golden one."""

    kind: Literal["swe_execute"] = "swe_execute"
    unparsable_score: float = 0.0
    """Score of an answer whose edits can't be read or applied."""


@block
class WriteTestSettings(RepositoryTestSettings):
    """Settings of `swe_write_test`; the test runs on the files as they are and on the fixed ones."""

    kind: Literal["swe_write_test"] = "swe_write_test"
    test_s: PositiveFloat = 10.0
    partial: bool = False
    """0.1 for a test that parses and 0.2 for one that also passes on the fixed files, instead of 0."""
    repeats: PositiveInt = 4
    """Runs on either; a test that passes at random passes all that it must with probability 4 ** -repeats at most."""


@block
class RegressionSettings(RepositoryTestSettings):
    """Settings of `swe_regression`; the repository's own tests run after the edits and, once, before."""

    kind: Literal["swe_regression"] = "swe_regression"


@block
class ReproductionSettings(RepositoryTestSettings):
    """Settings of `swe_reproduction`; the test runs on the files as they are and after the edits."""

    kind: Literal["swe_reproduction"] = "swe_reproduction"
    test_s: PositiveFloat = 10.0
    repeats: PositiveInt = 2
    """Runs on either."""


@block
class LocalizeSettings(Settings):
    """Settings of `swe_localize`."""

    kind: Literal["swe_localize"] = "swe_localize"
    metric: Literal["recall", "precision", "f1"] = "recall"
    """What is scored of the files that a response names."""
    max_files: PositiveInt = 10
    """A response that names more scores 0."""
