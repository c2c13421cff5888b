"""What came out of a cascade, a sentence for each thing that somebody who has a minute should know."""

from nemo_cascade.cascade.decision import GateRow
from nemo_cascade.report.matrix import Matrix, MatrixRow

_BY_GATE = {
    "recover": "another of its models was taken, for its last one broke a promise",
    "rollback": "rolled back, the cascade went on from its parent",
    "hold": "held, the cascade waits for a ruling",
    "skip": "skipped, for the reward model that it needs was rolled back",
}


def came_out(matrix: Matrix) -> list[str]:
    """Return the changes from the first scored model to the last, then each stage's promised rises, and its falls."""
    told = [sentence] if (sentence := _whole(matrix)) else []
    return told + [sentence for row in matrix.rows if (sentence := _stage(row))]


def _whole(matrix: Matrix) -> str:
    if len(matrix.rows) < 2:
        return ""
    first, last = matrix.rows[0], matrix.rows[-1]
    parts = []
    for domain in matrix.domains:
        before, after = first.cells.get(domain), last.cells.get(domain)
        if before is not None and after is not None and before.score is not None and after.score is not None:
            parts.append(f"{domain} {before.score:.3f} -> {after.score:.3f}")
    return f"From {first.stage} to {last.stage}: {', '.join(parts)}." if parts else ""


def _tells(row: GateRow) -> bool:
    """Whether a difference is worth a sentence: a promised rise, or a fall; other rises stand in the table."""
    return row.significant and (row.promise == "improve" or row.difference < 0)


def _stage(row: MatrixRow) -> str:
    changed = [
        f"{domain} {cell.row.difference:+.3f} (95 % {cell.row.low:+.3f} to {cell.row.high:+.3f}"
        f"{', a broken promise' if cell.row.broken else ''})"
        for domain, cell in row.cells.items()
        if cell.row is not None and (cell.row.broken or _tells(cell.row))
    ]
    gate = _BY_GATE.get(row.decision.outcome, "") if row.decision is not None else ""
    if not changed and not gate:
        return ""
    parts = [gate] * bool(gate) + [", ".join(changed) or "no promised rise, no fall"]
    return f"{row.stage}: {'; '.join(parts)}."
