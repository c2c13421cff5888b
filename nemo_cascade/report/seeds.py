"""An experiment over seeds: each arm's difference from the first, and what each arm forgets, over all seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_cascade.cascade.levels import holm_levels
from nemo_cascade.evaluation.over_seeds import OverSeeds, over_seeds
from nemo_cascade.report.compare import END, Arm, differences_between, forgetting, read_arm
from nemo_cascade.report.findings import Difference
from nemo_cascade.report.page import environment
from nemo_cascade.storage.atomic import write_atomically, write_json

ALPHA = 0.05
"""What holds over seeds: below this, over the domains of a comparison by Holm's rule."""


@dataclass(frozen=True, slots=True)
class SeedsRow:
    """One domain of a comparison.

    Attributes:
        domain: name.
        what: the stages that are compared, one for all seeds or as they differ.
        over: the difference over seeds.
        level: what its p-value is compared with.
    """

    domain: str
    what: str
    over: OverSeeds
    level: float

    @property
    def holds(self) -> bool:
        """Whether there is a difference, whatever the seed."""
        return self.over.p < self.level

    @property
    def tone(self) -> str:
        """`up` or `down` where it holds, else `flat`."""
        return ("up" if self.over.difference > 0 else "down") if self.holds else "flat"


def write_over_seeds(
    folders: Mapping[int, Sequence[Path]], arms: Sequence[str], target: Path, *, title: str, question: str
) -> Path:
    """Write the page of an experiment over seeds and, beside it, its figures as JSON; return the page's path.

    Args:
        folders: seed -> the run folders of its arms, in the order of `arms`; others are compared with the first.
        arms: names of the arms.
        target: the page.
        title: its heading.
        question: what the experiment is to tell.

    Raises:
        RunFolderError: a part of a run that is needed can't be read.
    """
    read = {seed: [read_arm(path) for path in paths] for seed, paths in folders.items()}
    comparisons: dict[str, list[SeedsRow]] = {}
    for place, name in enumerate(arms[1:], 1):
        ends = [_ends(found, place) for found in read.values()]
        comparisons[f"{name} minus {arms[0]}, at the end"] = _rows(ends)
    for place, name in enumerate(arms):
        if rows := _rows([forgetting(found[place]) for found in read.values()]):
            comparisons[f"{name}, from the stage that raised a domain to the end"] = rows
    findings = [sentence(what, rows) for what, rows in comparisons.items()]
    record = {
        "question": question,
        "seeds": list(folders),
        "findings": findings,
        "comparisons": {
            what: [{**asdict(row), "holds": row.holds} for row in rows] for what, rows in comparisons.items()
        },
    }
    write_json(target.with_suffix(".json"), record)
    page = environment().get_template("seeds.html.j2")
    text = page.render(
        title=title,
        question=question,
        seeds=list(folders),
        findings=findings,
        comparisons=comparisons,
        alpha=ALPHA,
    )
    write_atomically(target, text.encode())
    return target


def sentence(what: str, rows: Sequence[SeedsRow]) -> str:
    """Say what holds over seeds, and name what doesn't: `a minus b: math -0.100 (95 % -0.150 to -0.050); not: code`."""
    seeds = len(rows[0].over.by_seed) if rows else 0
    held = [f"{row.domain} {_estimate(row.over)}" for row in rows if row.holds]
    rest = [row.domain for row in rows if not row.holds]
    told = "; ".join(held) or "nothing"
    return f"{what}, over {seeds} seeds: {told}" + f"; no difference shown in {', '.join(rest)}" * bool(rest) + "."


def _estimate(over: OverSeeds) -> str:
    return f"{over.difference:+.3f} (95 % {over.low:+.3f} to {over.high:+.3f}, p = {over.p:.2g})"


def _ends(arms: Sequence[Arm], place: int) -> list[Difference]:
    return [entry for entry in differences_between(arms[0], arms[place]) if entry.what == END]


def _rows(differences: Sequence[Sequence[Difference]]) -> list[SeedsRow]:
    """Return the domains that every seed has a paired difference in."""
    by_seed = [{entry.domain: entry for entry in found if entry.by_prompt} for found in differences]
    domains = [domain for domain in by_seed[0] if all(domain in found for found in by_seed)]
    over = {domain: over_seeds([found[domain].by_prompt for found in by_seed]) for domain in domains}
    levels = holm_levels({domain: estimate.p for domain, estimate in over.items()}, ALPHA)
    what = {domain: ", ".join(dict.fromkeys(found[domain].what for found in by_seed)) for domain in domains}
    return [SeedsRow(domain, what[domain], over[domain], levels[domain]) for domain in domains]
