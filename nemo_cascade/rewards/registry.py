"""The verifiers by name. Importing this imports none of them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from nemo_cascade.config.plugins import is_plugin, load_plugin
from nemo_cascade.errors import CascadeError, RewardError
from nemo_cascade.rewards.verifier import Verifier, function_verifier

# A new verifier is one file and one line here: `name: "module:class"`.
VERIFIERS: Mapping[str, str] = {
    "math": "nemo_cascade.rewards.math:MathVerifier",
    "code": "nemo_cascade.rewards.code.verify:CodeVerifier",
    "instruction": "nemo_cascade.rewards.instruction:InstructionVerifier",
    "swe_repair": "nemo_cascade.rewards.swe.repair:RepairVerifier",
    "swe_execute": "nemo_cascade.rewards.swe.execution:ExecuteVerifier",
    "swe_localize": "nemo_cascade.rewards.swe.localize:LocalizeVerifier",
    "swe_write_test": "nemo_cascade.rewards.swe.execution:WriteTestVerifier",
    "swe_regression": "nemo_cascade.rewards.swe.validation:RegressionVerifier",
    "swe_reproduction": "nemo_cascade.rewards.swe.validation:ReproductionVerifier",
    "genrm_training": "nemo_cascade.rewards.genrm:GenRMTrainingVerifier",
    "mix": "nemo_cascade.rewards.mix:MixVerifier",
    "format": "nemo_cascade.rewards.form:FormatVerifier",
    "nano_quality": "nemo_cascade.nano.quality:NanoQualityVerifier",
    "language": "nemo_cascade.rewards.form:LanguageVerifier",
    "repetition": "nemo_cascade.rewards.form:RepetitionVerifier",
    "multiple_choice": "nemo_cascade.rewards.multiple_choice:MultipleChoiceVerifier",
    "structured_output": "nemo_cascade.rewards.structured_output.verifier:StructuredOutputVerifier",
    "equivalence": "nemo_cascade.rewards.equivalence:EquivalenceVerifier",
    "rubric": "nemo_cascade.rewards.rubric:RubricVerifier",
}
VERIFIER_NAMES: tuple[str, ...] = tuple(VERIFIERS)


class VerifierUse(NamedTuple):
    """A verifier with its settings: what is constructed once, and then judges whoever asks for just that.

    Attributes:
        name: in the registry.
        settings: canonical JSON.
    """

    name: str
    settings: str

    @classmethod
    def of(cls, name: str, settings: Mapping[str, Any]) -> VerifierUse:
        """Return the use; the order in which settings are given makes no other one of it."""
        return cls(name, json.dumps(dict(settings), sort_keys=True))

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        options: dict[str, Any] = json.loads(self.settings)
        return options

    @property
    def label(self) -> str:
        """What the pool's processes know it by."""
        return f"{self.name} {self.settings}"


def verifier_path(name: str, verifiers: Mapping[str, str] = VERIFIERS) -> str:
    """Return `module:class` of a verifier.

    Raises:
        RewardError: no verifier has that name.
    """
    if is_plugin(name):
        return name
    if name not in verifiers:
        close = difflib.get_close_matches(name, verifiers, n=1)
        raise RewardError(
            "unknown verifier",
            value=repr(name),
            limit=", ".join(verifiers),
            mend=f"did you mean {close[0]!r}?" if close else "one of these, or your own: my_file.py:name",
        )
    return verifiers[name]


def verifier_class(path: str) -> type[Verifier]:
    """Import the class behind `module:class`; of a function, the class of verifiers that ask it.

    Raises:
        RewardError: it can't be imported, or isn't there.
    """
    try:
        found = load_plugin(path)
    except CascadeError as error:
        raise RewardError(error.what, value=error.value, limit=error.limit, mend=error.mend) from error
    return cast(type[Verifier], found) if isinstance(found, type) else function_verifier(found)


def build_verifier(path: str, options: Mapping[str, Any]) -> Verifier:
    """Construct a verifier with its options.

    Raises:
        RewardError: it can't be imported or refuses its options.
    """
    make = verifier_class(path)
    try:
        return make(**options)
    except TypeError as error:
        raise RewardError("a verifier refuses its options", value=dict(options), mend=str(error)) from error
