"""A reward composed of verifiers by configuration: weights, gates, clipping; `formula` writes it out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nemo_cascade.config.plugins import is_plugin
from nemo_cascade.config.verifiers.kinds import MIX
from nemo_cascade.errors import ConfigError
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import Golden, Score, Verifier


@dataclass(frozen=True)
class Term:
    """One summand: a verifier, by kind and settings, and its weight."""

    reward: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True)
class Gate:
    """A condition: the verifier's score must reach `at_least`, else the whole reward is `otherwise`."""

    reward: Mapping[str, Any]
    at_least: float = 1.0
    otherwise: float = 0.0


class MixVerifier:
    """Score `if gate_1 and gate_2 ... then clip(sum of weight * score) else otherwise`.

    Gates are tried in order; the first that fails decides, and nothing behind it is run. An error of any part is an
    error of the whole: no part is ever counted as 0 because it couldn't be judged.

    Its settings, where `kind` is `mix`:

        terms: [{reward: {kind: math}, weight: 1.0}, {reward: {kind: repetition}, weight: 0.1}]
        gates: [{reward: {kind: format}, otherwise: -1.0}]
        clip: [-1.0, 1.0]

    Args:
        terms: the summands, at least one.
        gates: conditions.
        clip: lowest and highest sum.

    Raises:
        ConfigError: lists all that is wrong with the composition.
    """

    # Its golden cases are those of its parts, which the pool's self-test adds: see `parts`.
    golden: ClassVar[tuple[Golden, ...]] = ()

    def __init__(
        self,
        terms: Sequence[Mapping[str, Any]],
        gates: Sequence[Mapping[str, Any]] = (),
        clip: Sequence[float] | None = None,
    ) -> None:
        problems: list[str] = []
        self._terms = _declared(Term, "term", terms, problems)
        self._gates = _declared(Gate, "gate", gates, problems)
        if not terms:
            problems.append("mix: no terms")
        if clip is not None and (len(clip) != 2 or not clip[0] < clip[1]):
            problems.append(f"mix: clip must be [lowest, highest], got {list(clip)}")
        if problems:
            raise ConfigError(problems)
        self._clip = (float(clip[0]), float(clip[1])) if clip is not None else None
        self._verifiers = [_built(part) for part in (*self._gates, *self._terms)]
        self.needs_s = sum(getattr(verifier, "needs_s", 0.0) for verifier in self._verifiers)

    @staticmethod
    def parts(options: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the verifiers that a composition uses, each with its settings."""
        parts = (*options.get("gates", ()), *options.get("terms", ()))
        return [_named(part["reward"]) for part in parts]

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the composed reward; see `Verifier.verify`."""
        gates, terms = self._verifiers[: len(self._gates)], self._verifiers[len(self._gates) :]
        for gate, verifier in zip(self._gates, gates, strict=True):
            score = verifier.verify(record, response)
            if score < gate.at_least:
                failed = f"{gate.reward['kind']} = {float(score):g}: {getattr(score, 'detail', '')}"
                return Score(gate.otherwise, failed)
        total, details = 0.0, []
        for term, verifier in zip(self._terms, terms, strict=True):
            score = verifier.verify(record, response)
            total += term.weight * float(score)
            details.append(f"{term.reward['kind']} = {float(score):g}")
        if self._clip is not None:
            total = min(max(total, self._clip[0]), self._clip[1])
        return Score(total, ", ".join(details))


def _declared(kind: type[Any], what: str, entries: Sequence[Mapping[str, Any]], problems: list[str]) -> list[Any]:
    from nemo_cascade.rewards.registry import VERIFIER_NAMES

    parts = []
    for entry in entries:
        try:
            part = kind(**entry)
        except TypeError as error:
            problems.append(f"mix: a {what} can't be read: {dict(entry)} ({error})")
            continue
        name, _ = _named(part.reward)
        if (name not in VERIFIER_NAMES and not is_plugin(name)) or name == MIX:
            problems.append(f"mix: a {what} names the unknown verifier {name!r}")
        parts.append(part)
    return parts


def _built(part: Term | Gate) -> Verifier:
    from nemo_cascade.rewards.registry import build_verifier, verifier_path

    kind, settings = _named(part.reward)
    return build_verifier(verifier_path(kind), settings)


def _named(reward: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return a reward's kind and its settings."""
    return str(reward.get("kind")), {name: value for name, value in reward.items() if name != "kind"}
