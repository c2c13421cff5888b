"""The cascade's main result: score by stage and domain, each compared with the stage's parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.gate import Decision, GateRow
from nemo_cascade.evaluation.scores import Scores


@dataclass(frozen=True, slots=True)
class Cell:
    """One stage's score in one domain.

    Attributes:
        score: mean over prompts; None where no prompt has a score.
        stderr: standard error over prompts; None for fewer than two.
        n: prompts.
        row: the gate's comparison with the parent; None for the start, or before the gate.
    """

    score: float | None
    stderr: float | None
    n: int
    row: GateRow | None

    @property
    def tone(self) -> str:
        """`up` or `down` where the difference is significant, `broken` where a promise broke, else `flat`."""
        if self.row is None:
            return "flat"
        if self.row.broken:
            return "broken"
        if not self.row.significant:
            return "flat"
        return "up" if self.row.difference > 0 else "down"


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One stage.

    Attributes:
        stage: its name; `start` for the start model.
        cells: domain -> cell.
        decision: the gate's; None before it, and for the start.
    """

    stage: str
    cells: Mapping[str, Cell]
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """All stages that have scores, in the cascade's order."""

    domains: tuple[str, ...]
    rows: tuple[MatrixRow, ...]


def collect_matrix(folder: RunFolder) -> Matrix:
    """Read the scores and decisions of all stages that have them.

    Raises:
        RunFolderError: a file is damaged.
    """
    rows = []
    domains: dict[str, None] = {}
    for stage in folder.stages():
        if not stage.scores.is_file():
            continue
        decision = Decision.load(stage.gate) if stage.gate.is_file() else None
        compared = {row.domain: row for row in decision.rows} if decision else {}
        summary = Scores.load(stage.scores).summary()
        cells = {name: Cell(**entry, row=compared.get(name)) for name, entry in summary.items()}
        domains |= dict.fromkeys(summary)
        rows.append(MatrixRow(stage.name, cells, decision))
    return Matrix(tuple(domains), tuple(rows))


def matrix_table(matrix: Matrix) -> Table:
    """Return the matrix for a terminal: score, standard error, difference from the parent, the gate's outcome.

    A significant difference is coloured; a broken promise is red and marked with `!`.
    """
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", caption_justify="left")
    table.caption = (
        "score ± standard error, difference from the parent (coloured: significant; !: a promise was broken)"
    )
    table.add_column("stage", no_wrap=True)
    for domain in matrix.domains:
        table.add_column(domain, justify="right", no_wrap=True)
    table.add_column("gate")
    for row in matrix.rows:
        cells = [_cell_text(row.cells.get(domain)) for domain in matrix.domains]
        table.add_row(row.stage, *cells, row.decision.outcome if row.decision else Text("-", style="dim"))
    return table


_STYLE = {"up": "green", "down": "yellow", "broken": "bold red", "flat": "dim"}


def _cell_text(cell: Cell | None) -> Text:
    if cell is None or cell.score is None:
        return Text("-", style="dim")
    text = Text(f"{cell.score:.3f}")
    if cell.stderr is not None:
        text.append(f" ± {cell.stderr:.3f}", style="dim")
    if cell.row is not None:
        mark = "!" if cell.row.broken else " "
        text.append(f"  {cell.row.difference:+.3f}{mark}", style=_STYLE[cell.tone])
    return text
