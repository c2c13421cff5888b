"""A run folder as plain data: its scores by stage and domain, what its gates decided, where it stands."""

from pathlib import Path
from typing import Any

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.report.matrix import collect_matrix
from nemo_cascade.report.story import held_stage


def run_facts(path: Path) -> dict[str, Any]:
    """Return what programs are told of a run, whether it is over or not."""
    folder = RunFolder(path)
    held = held_stage(folder)
    stages = [
        {
            "name": row.stage,
            "scores": {domain: cell.score for domain, cell in row.cells.items()},
            "outcome": None if row.decision is None else row.decision.outcome,
            "reason": None if row.decision is None else row.decision.reason,
        }
        for row in collect_matrix(folder).rows
    ]
    return {"folder": str(path), "stages": stages, "held_after": None if held is None else held[0]}
