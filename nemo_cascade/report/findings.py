"""What a comparison came to, in one sentence for people and as JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nemo_cascade.evaluation.paired import PairedDifference
from nemo_cascade.storage.atomic import write_json

ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class Difference:
    """Another run's score minus the first one's in a domain, or a later stage's minus an earlier one's.

    Attributes:
        what: stage, or the pair of stages, for people.
        domain: name.
        before: mean score of the one it is compared with.
        after: mean score.
        paired: the statistics; None where the two weren't scored on the same prompts.
        by_prompt: prompt id -> difference; empty where they weren't.
    """

    what: str
    domain: str
    before: float
    after: float
    paired: PairedDifference | None
    by_prompt: Mapping[str, float] = field(default_factory=dict)

    @property
    def tone(self) -> str:
        """`up` or `down` where the difference is significant, else `flat`."""
        if self.paired is None or min(self.paired.p_greater, self.paired.p_less) >= ALPHA:
            return "flat"
        return "up" if self.paired.difference > 0 else "down"


def sentence(who: str, differences: Sequence[Difference]) -> str:
    """Say what differs, domain by domain: `mixed: math -0.100 (95 % -0.150 to -0.050, p = 0.0001, n = 400)`."""
    told = []
    for entry in differences:
        name = f"{entry.domain} {entry.after - entry.before:+.3f}"
        if entry.paired is None:
            told.append(f"{name} (other prompts)")
            continue
        p = min(entry.paired.p_greater, entry.paired.p_less)
        interval = f"95 % {entry.paired.low:+.3f} to {entry.paired.high:+.3f}"
        told.append(f"{name} ({interval}, one-sided p = {p:.2g}, n = {entry.paired.n})")
    return f"{who}: {'; '.join(told)}." if told else f"{who}: nothing to compare."


def _record(difference: Difference) -> dict[str, Any]:
    return {name: value for name, value in asdict(difference).items() if name != "by_prompt"}


def write_findings(
    target: Path,
    question: str,
    ends: Mapping[str, Sequence[Difference]],
    forgotten: Mapping[str, Sequence[Difference]],
) -> list[str]:
    """Write a comparison's results as JSON, and return its findings, a sentence for each run.

    Args:
        target: the file.
        question: what the comparison is to tell.
        ends: run -> its differences from the first run at the end.
        forgotten: run -> its end's differences from the stages that were to raise the domains.
    """
    findings = [sentence(f"{name} at the end", found) for name, found in ends.items()]
    since = "from the stage that raised a domain to the end"
    findings += [sentence(f"{name}, {since}", found) for name, found in forgotten.items() if found]
    record = {
        "question": question,
        "findings": findings,
        "at_the_end": {name: [_record(difference) for difference in found] for name, found in ends.items()},
        "forgetting": {name: [_record(difference) for difference in found] for name, found in forgotten.items()},
    }
    write_json(target, record)
    return findings
