"""A recipe's hyperparameters beside the paper's, as tables."""

from collections.abc import Sequence

from rich.markup import escape

from nemo_cascade.cli.preflight import Preflight
from nemo_cascade.cli.screen.terminal import out, table
from nemo_cascade.papers.compare import NOT_GIVEN, Row, compare, recipes

UNEXPLAINED = "no reason given"


def show_beside_paper(ready: Preflight) -> None:
    """Print every hyperparameter of one of the papers' recipes beside the paper's value; nothing for another run."""
    chosen = [line.removeprefix("cascade=") for line in ready.provenance["overrides"] if line.startswith("cascade=")]
    if not chosen or chosen[-1] not in recipes():
        return
    rows = compare(ready.config, chosen[-1], ready.provenance["origins"])
    given = [row for row in rows if row.paper != NOT_GIVEN or row.differs]
    for stage in dict.fromkeys(row.stage for row in given):
        out.print()
        _show_stage(stage, [row for row in given if row.stage == stage])
    silent = [row for row in rows if row.paper == NOT_GIVEN and not row.differs]
    out.print()
    _show_silent(silent)
    differ = sum(row.differs for row in rows)
    out.print()
    out.print(
        f"{len(given) - differ} values are those of {recipes()[chosen[-1]].source}, {differ} differ (marked !), "
        f"{len(silent)} are not given there"
    )


def _show_stage(stage: str, rows: Sequence[Row]) -> None:
    shown = table(f"{stage} beside the paper", "key", "here#", "", "paper#", "where", "reason or remark")
    for row in rows:
        mark = "[bold yellow]![/]" if row.differs else ""
        why = UNEXPLAINED if row.why is None else row.why
        shown.add_row(escape(row.key), escape(row.ours), mark, escape(row.paper), escape(row.where), escape(why))
    out.print(shown)


def _show_silent(rows: Sequence[Row]) -> None:
    """Print what the paper doesn't give, each key and value once."""
    stages: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        stages.setdefault((row.key, row.ours, UNEXPLAINED if row.why is None else row.why), []).append(row.stage)
    shown = table("not given in the paper", "key", "here#", "stages", "why so")
    for (key, ours, why), names in stages.items():
        shown.add_row(escape(key), escape(ours), ", ".join(names), escape(why))
    out.print(shown)
