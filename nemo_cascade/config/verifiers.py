"""Settings of the verifiers: what a prompt set's or a suite's `reward` may hold, by its `verifier`.

A block has the names and defaults of its verifier's constructor, whose docstring says what they are for; a verifier
that takes a setting has it here. A user's own verifier is asked what it takes (config/plugins.py). Beside the limits
that are run into, `needs_s` says what a verdict may take.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import MISSING, asdict, field, fields, make_dataclass
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from nemo_cascade.config.base import Fraction, block
from nemo_cascade.config.plugins import anchored, is_plugin, load_plugin, plugin_fields
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.errors import CascadeError

VerifierName = Annotated[str, AfterValidator(anchored)]
"""A name of the reward registry, or where a user's own verifier is."""


class Settings:
    """What all blocks of settings have.

    Attributes:
        limits: names of the settings that bound a verdict's means and don't say what it is: under them the verifier's
            golden cases are tried, all else at its default.
    """

    limits: ClassVar[frozenset[str]] = frozenset()

    @property
    def needs_s(self) -> float:
        """Seconds that one verdict may take by its own limits; 0: it has none."""
        return 0.0


def longest_s(cpu_s: float) -> float:
    """Return how long runs with this much CPU time together may take by the clock, on a machine that is busy."""
    return 3 * cpu_s + 10


@block
class NoSettings(Settings):
    """A verifier without settings."""


@block
class MathSettings(Settings):
    """Settings of `math`."""

    mixed_language_score: float | None = None
    """Score of a response whose reasoning holds text of a foreign script, whatever its answer (-1 in arXiv 2512.13607,
    section 4.5, for training); null doesn't look, as an evaluation mustn't."""
    language: str = "en"
    """Language of the reasoning, ISO 639-1."""


@block
class CodeSettings(Settings):
    """Settings of `code`."""

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

    mode: Literal["strict", "loose"] = "strict"
    """loose: markdown asterisks and an introductory or closing line are forgiven."""
    partial: bool = False
    """Score the share of followed constraints instead of all or nothing."""
    reading: Literal["words", "reference"] = "words"
    """words: a constraint is what its instruction asks. reference: what the code of IFEval's reference accepts, for
    scores that are compared with published ones."""


@block
class JudgeSettings:
    """A model behind an OpenAI-compatible server that is asked about single responses."""

    url: str
    """Base URL of its API, such as http://judge:8000/v1."""
    model: str
    """Its name on that server."""
    timeout_s: PositiveFloat = 60.0
    """Of one request."""
    attempts: PositiveInt = 3
    """Tries when the server is unreachable, overloaded or broken."""
    api_key: str = ""
    """The server's key; empty: none is sent."""


@block
class RepairSettings(Settings):
    """Settings of `swe_repair`."""

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
class ExecuteSettings(Settings):
    """Settings of `swe_execute`."""

    limits: ClassVar[frozenset[str]] = frozenset({"test_s", "memory_mib"})

    test_s: PositiveFloat = 20.0
    """CPU seconds of all tests together; they run on the response's patch and, once, on the golden one."""
    memory_mib: PositiveInt = 512
    """Memory of one run."""
    unparsable_score: float = 0.0
    """Score of an answer whose edits can't be read or applied."""

    @property
    def needs_s(self) -> float:
        """Both runs' CPU seconds."""
        return 2 * self.test_s


@block
class WriteTestSettings(Settings):
    """Settings of `swe_write_test`."""

    limits: ClassVar[frozenset[str]] = frozenset({"test_s", "memory_mib"})

    test_s: PositiveFloat = 10.0
    """CPU seconds of all runs on the files as they are together, and of all on the fixed ones."""
    memory_mib: PositiveInt = 512
    """Memory of one run."""
    partial: bool = False
    """0.1 for a test that parses and 0.2 for one that also passes on the fixed files, instead of 0."""
    repeats: PositiveInt = 4
    """Runs on either; a test that passes at random passes all that it must with probability 4 ** -repeats at most."""

    @property
    def needs_s(self) -> float:
        """All runs' CPU seconds."""
        return 2 * self.test_s


@block
class LocalizeSettings(Settings):
    """Settings of `swe_localize`."""

    metric: Literal["recall", "precision", "f1"] = "recall"
    """What is scored of the files that a response names."""
    max_files: PositiveInt = 10
    """A response that names more scores 0."""


@block
class GenRMTrainingSettings(Settings):
    """Settings of `genrm_training`."""

    format_penalty: NonNegativeFloat = 10.0
    """What a comparison that can't be read costs."""
    ranking_weight: NonNegativeFloat = 1.0
    """Weight of the ranking's distance."""


@block
class FormatSettings(Settings):
    """Settings of `format`."""

    mode: Literal["think", "no_think", "row"] = "row"
    """The form that is due; row: that of the mode which the prompt is asked in."""
    empty_thought: bool = False
    """Whether a thinking block with nothing in it has the form of thinking, as in TRL's reward."""


@block
class LanguageSettings(Settings):
    """Settings of `language`."""

    language: str = "en"
    """What the response must be written in, ISO 639-1; a row's `response_language` goes before it."""
    part: Literal["all", "reasoning", "answer"] = "all"
    """Where to look."""


@block
class RepetitionSettings(Settings):
    """Settings of `repetition`."""

    words: PositiveInt = 8
    """Length of the word sequences that are compared."""
    max_share: Fraction = 0.5
    """Largest share of such sequences that may have occurred before."""


@block
class PartSettings:
    """What all parts of `mix` have."""

    verifier: VerifierName
    """Whose score it is."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of that verifier."""

    @field_validator("options")
    @classmethod
    def _completed(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return complete(given, info)


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
        return sum(settings_of(part.verifier, part.options).needs_s for part in parts if has_settings(part.verifier))


SETTINGS: Mapping[str, type[Settings]] = {
    "math": MathSettings,
    "code": CodeSettings,
    "instruction": InstructionSettings,
    "swe_repair": RepairSettings,
    "swe_execute": ExecuteSettings,
    "swe_localize": LocalizeSettings,
    "swe_write_test": WriteTestSettings,
    "genrm_training": GenRMTrainingSettings,
    "mix": MixSettings,
    "format": FormatSettings,
    "nano_quality": NoSettings,
    "language": LanguageSettings,
    "repetition": RepetitionSettings,
    # Judged elsewhere: by `reward_model` and by reward.genrm.
    "preference": NoSettings,
    "genrm": NoSettings,
}
"""Verifier name -> its settings."""


@cache
def plugin_settings(name: str) -> type[Settings]:
    """Return the settings of a user's verifier: what its class or function takes by name.

    Raises:
        CascadeError: it can't be loaded, or takes what can't be checked.
    """
    found = load_plugin(name)
    fields: list[Any] = []
    for key, kind, default in plugin_fields(found, 0 if isinstance(found, type) else 2):
        fields.append((key, kind) if default is MISSING else (key, kind, field(default_factory=partial(copy, default))))
    made = make_dataclass("PluginSettings", fields, bases=(Settings,), kw_only=True)
    strict = ConfigDict(extra="forbid", validate_default=True, arbitrary_types_allowed=True)
    return cast(type[Settings], pydantic_dataclass(config=strict)(made))


def settings_block(verifier: str) -> type[Settings] | None:
    """Return the settings of a verifier; None where there is no such one, or a user's can't be loaded."""
    if not is_plugin(verifier):
        return SETTINGS.get(verifier)
    try:
        return plugin_settings(verifier)
    except CascadeError:
        return None  # the validation tells why


def has_settings(verifier: str) -> bool:
    """Tell whether a verifier's settings are known."""
    return settings_block(verifier) is not None


def settings_of(verifier: str, given: Mapping[str, Any]) -> Settings:
    """Return a verifier's settings, those that aren't given at their defaults.

    Raises:
        pydantic.ValidationError: an unknown name, or a value that doesn't fit.
    """
    block_type = plugin_settings(verifier) if is_plugin(verifier) else SETTINGS[verifier]
    settings: Settings = TypeAdapter(block_type).validate_python(dict(given))
    return settings


def complete(given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """Fill in the settings that a `reward` (or a part's `options`) lacks, by the `verifier` that stands before it.

    So two configurations that mean the same are equal, whoever wrote them. An unknown verifier has no defaults.

    Raises:
        pydantic.ValidationError: as `settings_of`.
    """
    verifier = info.data.get("verifier")
    known = isinstance(verifier, str) and has_settings(verifier)
    return asdict(settings_of(str(verifier), given)) if known else given  # type: ignore[call-overload,no-any-return]


def changed(verifier: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that aren't at their defaults, for plans and reports."""
    known: Any = fields(settings_block(verifier) or NoSettings)  # type: ignore[arg-type]
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in known}
    return {name: value for name, value in settings.items() if name not in defaults or value != defaults[name]}


def golden_settings(verifier: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under which a verifier's golden cases must hold: the given limits, all else by default."""
    block_type = settings_block(verifier)
    limits = block_type.limits if block_type is not None else frozenset()
    return {name: value for name, value in settings.items() if name in limits}
