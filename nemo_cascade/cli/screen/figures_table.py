"""Errors of predictions of published figures, as tables."""

from collections.abc import Sequence

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out, table
from nemo_cascade.planner.published.figures import ReadRows
from nemo_cascade.planner.published.validation import Errors
from nemo_cascade.planner.quantity import Quantity

_MOST_REASONS = 12


def show_errors(quantity: Quantity, rows: Sequence[Errors], title: str) -> None:
    """Print errors by group."""
    shown = table(
        f"{quantity.name}: {quantity.unit}, {title}", "group", "figures#", "median#", "90 %#", "bias#", "in range#"
    )
    for row in rows:
        numbers = (f"{row.median:.1%}", f"{row.most:.1%}", f"{row.bias:+.1%}", f"{row.inside:.0%}")
        shown.add_row(escape(row.group), str(row.count), *numbers)
    out.print(shown)
    out.print()


def show_left_out(read: ReadRows) -> None:
    """Print how many rows were not predicted, and why."""
    if not read.left_out:
        return
    shown = table("not predicted", "rows#", "why")
    reasons = sorted(read.left_out.items(), key=lambda item: -item[1])
    for reason, count in reasons[:_MOST_REASONS]:
        shown.add_row(str(count), escape(reason))
    if rest := reasons[_MOST_REASONS:]:
        shown.add_row(str(sum(count for _, count in rest)), f"{len(rest)} other reasons")
    out.print(shown)
