"""Who judges, and how: the `reward` of a task or a suite, typed by its `kind`.

A block has the names and defaults of its verifier's constructor, whose docstring says what they are for; a verifier
that takes a setting has it here. A user's own verifier is asked what it takes (config/plugins.py). Beside the limits
that are run into, `needs_s` says what a verdict may take.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from copy import copy
from dataclasses import MISSING, field, fields
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticCustomError

from nemo_cascade.config.base import Fraction, block
from nemo_cascade.config.plugins import anchored, is_plugin, load_plugin, plugin_fields
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.verifiers.answers import (
    EquivalenceSettings,
    MultipleChoiceSettings,
    RubricSettings,
    StructuredOutputSettings,
)
from nemo_cascade.config.verifiers.base import Settings, longest_s
from nemo_cascade.config.verifiers.repositories import (
    ExecuteSettings,
    LocalizeSettings,
    RegressionSettings,
    RepairSettings,
    ReproductionSettings,
    WriteTestSettings,
)
from nemo_cascade.errors import CascadeError

PREFERENCE = "preference"
"""The kind that is a reward model."""
GENRM = "genrm"
"""The kind that is a generative reward model; all others are in the reward registry."""
MIX = "mix"
"""The kind that is composed of others."""


def _typed(given: object, info: ValidationInfo) -> Settings:
    """Return a reward as the block of its kind.

    Raises:
        ValidationError: no such kind, an unknown name, or a value that doesn't fit.
    """
    if isinstance(given, Settings):
        return given
    if not isinstance(given, Mapping):
        raise PydanticCustomError("mapping_type", "a mapping, such as {kind: math}")
    kind = given.get("kind")
    try:
        if not isinstance(kind, str):
            raise CascadeError("no verifier is named", value=kind, limit=", ".join(SETTINGS), mend="kind: math")
        adapter = _adapter(anchored(kind))
    except CascadeError as problem:
        raise _refusal(problem, kind) from None
    given = {**given, "kind": anchored(kind)}
    if info.mode == "json":
        # Strict, as everything that people write: see reading/strict.py.
        return adapter.validate_json(json.dumps(given, default=str), strict=True)
    return adapter.validate_python(given)


def _part(given: object, info: ValidationInfo) -> Settings:
    """Return a part of a composition, which may be any verifier of single responses but another composition."""
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if kind in (MIX, PREFERENCE, GENRM):
        allowed = ", ".join(known for known in SETTINGS if known not in (MIX, PREFERENCE, GENRM))
        raise _refusal(CascadeError("no part of a mix", value=kind, limit=allowed, mend="name one of these"), kind)
    return _typed(given, info)


def _refusal(problem: CascadeError, kind: object) -> ValidationError:
    """Return the error of a `kind`; whoever tells it to people finds the problem in its context (reading/strict.py)."""
    error = PydanticCustomError("refused", "refused", {"problem": problem})
    return ValidationError.from_exception_data("reward", [{"type": error, "loc": ("kind",), "input": kind}])


Reward = Annotated[Settings, PlainValidator(_typed)]
"""A verifier with its settings, `{kind: math, language: en}`."""
PartReward = Annotated[Settings, PlainValidator(_part)]
"""The same, as a part of a composition."""


@block
class MathSettings(Settings):
    """Settings of `math`."""

    kind: Literal["math"] = "math"
    mixed_language_score: float | None = None
    """Score of a response whose reasoning holds text of a foreign script, whatever its answer (-1 in arXiv 2512.13607,
    section 4.5, for training); null doesn't look, as an evaluation mustn't."""
    language: str = "en"
    """Language of the reasoning, ISO 639-1."""


@block
class CodeSettings(Settings):
    """Settings of `code`."""

    kind: Literal["code"] = "code"

    limits: ClassVar[frozenset[str]] = frozenset({"per_test_s", "total_s", "max_tests", "memory_mib"})

    per_test_s: PositiveFloat = 6.0
    """CPU seconds of one run of a whole program."""
    total_s: PositiveFloat = 40.0
    """CPU seconds of all tests together; on a busy machine a verdict takes several times that by the clock, which must
    fit into reward.deadlines.code."""
    max_tests: PositiveInt = 50
    """Most tests that are run; of more, an even choice from small to large."""
    memory_mib: PositiveInt = 512
    """Memory of one run."""
    whitespace: Literal["lines", "words"] = "lines"
    """What outputs are compared by. lines: as LiveCodeBench and NeMo Gym do; words: as CodeContests and Kattis do,
    wherever lines end. A row with validator_flags of a problem package is judged by these."""
    any_case: bool = False
    """Whether letters of an output may be capital or small, as SandboxFusion and CodeContests have it."""
    mixed_language_score: float | None = None
    """Score of a response whose reasoning holds text of a foreign script (0 in arXiv 2512.13607, section 4.6, for
    training: -1 hurt there); null doesn't look."""
    language: str = "en"
    """Language of the reasoning, ISO 639-1."""

    @property
    def needs_s(self) -> float:
        """All tests and compiling, by the clock."""
        return longest_s(self.total_s) + SandboxConfig().compile_limits.wall_s


@block
class InstructionSettings(Settings):
    """Settings of `instruction`."""

    kind: Literal["instruction"] = "instruction"
    mode: Literal["strict", "loose"] = "strict"
    """loose: markdown asterisks and an introductory or closing line are forgiven."""
    partial: bool = False
    """Score the share of followed constraints instead of all or nothing."""
    reading: Literal["words", "reference"] = "words"
    """words: a constraint is what its instruction asks. reference: what the code of IFEval's reference accepts, for
    scores that are compared with published ones."""


@block
class GenRMTrainingSettings(Settings):
    """Settings of `genrm_training`."""

    kind: Literal["genrm_training"] = "genrm_training"
    format_penalty: NonNegativeFloat = 10.0
    """What a comparison that can't be read costs."""
    ranking_weight: NonNegativeFloat = 1.0
    """Weight of the ranking's distance."""


@block
class FormatSettings(Settings):
    """Settings of `format`."""

    kind: Literal["format"] = "format"
    mode: Literal["think", "no_think", "row"] = "row"
    """The form that is due; row: that of the mode which the prompt is asked in."""
    empty_thought: bool = False
    """Whether a thinking block with nothing in it has the form of thinking, as in TRL's reward."""


@block
class LanguageSettings(Settings):
    """Settings of `language`."""

    kind: Literal["language"] = "language"
    language: str = "en"
    """What the response must be written in, ISO 639-1; a row's `response_language` goes before it."""
    part: Literal["all", "reasoning", "answer"] = "all"
    """Where to look."""


@block
class RepetitionSettings(Settings):
    """Settings of `repetition`."""

    kind: Literal["repetition"] = "repetition"
    words: PositiveInt = 8
    """Length of the word sequences that are compared."""
    max_share: Fraction = 0.5
    """Largest share of such sequences that may have occurred before."""


@block
class PartSettings:
    """What all parts of `mix` have."""

    reward: PartReward
    """Whose score it is."""


@block
class TermSettings(PartSettings):
    """One summand of `mix`."""

    weight: float = 1.0
    """Its factor."""


@block
class GateSettings(PartSettings):
    """A condition of `mix`: under `at_least` the whole reward is `otherwise`."""

    at_least: float = 1.0
    """Least score that passes."""
    otherwise: float = 0.0
    """The reward of a response that doesn't."""


@block
class MixSettings(Settings):
    """Settings of `mix`."""

    kind: Literal["mix"] = "mix"
    terms: Annotated[list[TermSettings], Field(min_length=1)]
    """The summands."""
    gates: list[GateSettings] = field(default_factory=list)
    """Conditions, in this order; the first that fails decides."""
    clip: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Lowest and highest sum; null: no bounds."""

    @model_validator(mode="after")
    def _ordered(self) -> MixSettings:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip=[lowest, highest], got {self.clip}")
        return self

    @property
    def needs_s(self) -> float:
        """That of all parts, one after the other."""
        parts: list[PartSettings] = [*self.gates, *self.terms]
        return sum(part.reward.needs_s for part in parts)


@block
class NanoQualitySettings(Settings):
    """Settings of `nano_quality`: none."""

    kind: Literal["nano_quality"] = "nano_quality"


@block
class PreferenceSettings(Settings):
    """Settings of `preference`: none; who judges is the stage's or the suite's `reward_model`."""

    kind: Literal["preference"] = "preference"


@block
class GenRMSettings(Settings):
    """Settings of `genrm`: none; who judges is reward.genrm."""

    kind: Literal["genrm"] = "genrm"


SETTINGS: Mapping[str, type[Settings]] = {
    "math": MathSettings,
    "code": CodeSettings,
    "instruction": InstructionSettings,
    "swe_repair": RepairSettings,
    "swe_execute": ExecuteSettings,
    "swe_localize": LocalizeSettings,
    "swe_write_test": WriteTestSettings,
    "swe_regression": RegressionSettings,
    "swe_reproduction": ReproductionSettings,
    "genrm_training": GenRMTrainingSettings,
    "mix": MixSettings,
    "format": FormatSettings,
    "nano_quality": NanoQualitySettings,
    "language": LanguageSettings,
    "repetition": RepetitionSettings,
    "multiple_choice": MultipleChoiceSettings,
    "structured_output": StructuredOutputSettings,
    "equivalence": EquivalenceSettings,
    "rubric": RubricSettings,
    "preference": PreferenceSettings,
    "genrm": GenRMSettings,
}
"""Kind -> its settings."""


@cache
def plugin_settings(name: str) -> type[Settings]:
    """Return the settings of a user's verifier: what its class or function takes by name.

    Raises:
        CascadeError: it can't be loaded, or takes what can't be checked.
    """
    found = load_plugin(name)
    types: dict[str, Any] = {"kind": str}
    defaults: dict[str, Any] = {"kind": name}
    for key, kind, default in plugin_fields(found, 0 if isinstance(found, type) else 2):
        if key in ("kind", "limits", "needs_s", "options"):
            raise CascadeError(
                "a plug-in's setting has a name that every reward has",
                value=f"{name}: {key}",
                mend="give it another name in your code",
            )
        types[key] = kind
        if default is not MISSING:
            defaults[key] = field(default_factory=partial(copy, default))
    made = type("PluginSettings", (Settings,), {"__annotations__": types, "__module__": __name__, **defaults})
    strict = ConfigDict(extra="forbid", validate_default=True, arbitrary_types_allowed=True)
    return cast(type[Settings], pydantic_dataclass(frozen=True, kw_only=True, config=strict)(made))


def settings_block(kind: str) -> type[Settings]:
    """Return the settings of a verifier.

    Raises:
        CascadeError: there is no such one, or a user's can't be loaded.
    """
    if is_plugin(kind):
        return plugin_settings(kind)
    if kind not in SETTINGS:
        near = difflib.get_close_matches(kind, SETTINGS, n=1)
        mend = f"did you mean {near[0]}?" if near else "one of these, or your own: my_file.py:name"
        raise CascadeError("unknown verifier", value=kind, limit=", ".join(SETTINGS), mend=mend)
    return SETTINGS[kind]


@cache
def _adapter(kind: str) -> TypeAdapter[Settings]:
    return TypeAdapter(settings_block(kind))


def changed(reward: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a reward, as plain data, that aren't at their defaults, for plans and reports."""
    try:
        known: Any = fields(settings_block(reward["kind"]))  # type: ignore[arg-type]
    except CascadeError:
        known = ()  # a report of a run whose verifier has gone since
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in known}
    given = {name: value for name, value in reward.items() if name != "kind"}
    return {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}


def golden_settings(verifier: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under which a verifier's golden cases must hold: limits and needs as given, else defaults."""
    try:
        kind_block = settings_block(verifier)
    except CascadeError:
        return {}  # told by whoever constructs it
    needed = {f.name for f in fields(kind_block) if f.default is MISSING and f.default_factory is MISSING}
    return {name: value for name, value in settings.items() if name in kind_block.limits | needed}
