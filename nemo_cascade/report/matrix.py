"""The cascade's main result: score by stage and domain, each compared with the stage's parent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from nemo_cascade.cascade.decision import Decision, GateRow
from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.evaluation.scores import Scores


@dataclass(frozen=True, slots=True)
class Cell:
    """One stage's score in one domain.

    Attributes:
        score: mean over prompts; None where no prompt has a score.
        stderr: standard error over prompts; None for fewer than two.
        n: prompts.
        samples: k, of each prompt: the score is avg@k.
        pass_at_k: share of the prompts with a passing sample; None for k = 1 and for scores that aren't all 0 or 1.
        mode_obeyed: share of the samples with the form of the suite's mode; None where it wasn't measured.
        row: the gate's comparison with the parent; None for the start, or before the gate.
    """

    score: float | None
    stderr: float | None
    n: int
    samples: int
    pass_at_k: float | None
    mode_obeyed: float | None
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

    @property
    def shares(self) -> tuple[Shares, ...]:
        """What else was measured of the same answers: how many obey the mode that was asked for, and pass@k."""
        obeyed = [d for d in self.domains if any(c.mode_obeyed is not None for c in self._column(d))]
        # A graded score may happen to be 0 or 1 everywhere after one stage, but hardly after all of them.
        passed = [d for d in self.domains if all(c.pass_at_k is not None for c in self._column(d))]
        ks = {d: max(cell.samples for cell in self._column(d)) for d in passed}
        found = (
            self._shares("Answers in the mode asked for", {d: d for d in obeyed}, lambda cell: cell.mode_obeyed),
            self._shares("pass@k", {d: f"{d} @{ks[d]}" for d in passed}, lambda cell: cell.pass_at_k),
        )
        return tuple(shares for shares in found if shares.columns)

    def _column(self, domain: str) -> list[Cell]:
        return [row.cells[domain] for row in self.rows if domain in row.cells]

    def _shares(self, title: str, columns: Mapping[str, str], value: Callable[[Cell], float | None]) -> Shares:
        cells = [(row.stage, [row.cells.get(domain) for domain in columns]) for row in self.rows]
        rows = tuple((stage, tuple(None if cell is None else value(cell) for cell in found)) for stage, found in cells)
        return Shares(title, tuple(columns.values()), rows)


@dataclass(frozen=True, slots=True)
class Shares:
    """A small table of shares by stage; None where one wasn't measured.

    Attributes:
        title: for people.
        columns: names.
        rows: stage, and the share of each column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


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


def matrix_tables(matrix: Matrix) -> Iterator[Table]:
    """Yield the matrix for a terminal: score, standard error, difference from the parent, the gate's outcome; shares.

    A significant difference is coloured; a broken promise is red and marked with `!`. Many domains take several tables.
    """
    starts = range(0, len(matrix.domains), _ACROSS)
    for start in starts:
        domains = matrix.domains[start : start + _ACROSS]
        table = Table("stage", box=box.SIMPLE_HEAD, header_style="bold", caption_justify="left")
        if start == starts[-1]:
            table.caption = (
                "score ± standard error, difference from the parent (coloured: significant; !: a promise was broken)"
            )
        for domain in domains:
            table.add_column(domain, justify="right", no_wrap=True)
        table.add_column("gate")
        for row in matrix.rows:
            cells = [_cell_text(row.cells.get(domain)) for domain in domains]
            table.add_row(row.stage, *cells, row.decision.outcome if row.decision else Text("-", style="dim"))
        yield table
    for shares in matrix.shares:
        table = Table(shares.title, box=box.SIMPLE_HEAD, header_style="bold")
        for name in shares.columns:
            table.add_column(name, justify="right", no_wrap=True)
        for stage, values in shares.rows:
            table.add_row(stage, *("-" if value is None else f"{value:.3f}" for value in values))
        yield table


_ACROSS = 5
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
