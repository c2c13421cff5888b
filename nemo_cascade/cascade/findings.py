"""What a comparison came to, in one sentence for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_cascade.telemetry.jsonl import write_atomically

if TYPE_CHECKING:
    from nemo_cascade.cascade.compare import Difference


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
        "at_the_end": {name: [_entry(difference) for difference in found] for name, found in ends.items()},
        "forgetting": {name: [_entry(difference) for difference in found] for name, found in forgotten.items()},
    }
    write_atomically(target, (json.dumps(record, indent=1) + "\n").encode())
    return findings


def _entry(difference: Difference) -> dict[str, Any]:
    paired = difference.paired
    entry: dict[str, Any] = {"what": difference.what, "domain": difference.domain}
    entry |= {"before": difference.before, "after": difference.after}
    if paired is not None:
        entry |= {"difference": paired.difference, "low": paired.low, "high": paired.high}
        entry |= {"p_greater": paired.p_greater, "p_less": paired.p_less, "n": paired.n}
    return entry
