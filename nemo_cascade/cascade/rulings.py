"""What people rule about a stage that its gate decided: `nemo-cascade decide RUN --stage S --accept --because "..."`.

    accept     the cascade goes on from the stage as it stands
    rollback   it goes on from the stage's parent (of a reward model: without it, and without the stages that need it)
    recover    the next start of the run looks for the stage's best other model, as `on_regression: recover` does

A ruling is a record of the ledger, `ruled`. Accepting and rolling back are carried out at once: gate.json gets the new
outcome with its reason, and the ledger another `decided`. A start of the run finds what was left undone.
"""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Literal

from nemo_cascade.cascade.decision import Decision
from nemo_cascade.cascade.folder import RunFolder, StageFolder
from nemo_cascade.cascade.ledger import Ledger, Record
from nemo_cascade.config.reading.provenance import read_config, run_command
from nemo_cascade.errors import RunFolderError
from nemo_cascade.report.story import fork_command

Ruling = Literal["accept", "rollback", "recover"]


def rule(path: Path, stage: str, ruling: Ruling, because: str) -> Decision:
    """Rule about the stage that a run was decided on last; return its decision, which `recover` leaves as it is.

    Raises:
        RunFolderError: no run, no such stage, no decision yet, later stages rest on it, no reason, nothing left to
            recover, or another process works in the folder.
    """
    folder = RunFolder(path)
    config = read_config(path)
    if stage not in config.stages:
        raise RunFolderError(
            "the run has no such stage",
            value=stage,
            limit=", ".join(config.stages),
            mend=f"--stage {next(iter(difflib.get_close_matches(stage, config.stages, n=1)), [*config.stages][-1])}",
        )
    if not because.strip():
        raise RunFolderError("a ruling needs its reason", mend='--because "..."')
    with folder.claimed():
        ledger = Ledger(folder.ledger)
        place = next((found for found in folder.stages() if found.name == stage), None)
        decided = ledger.find("decided", stage)
        if decided is None or place is None:
            mend = f"let the run come to it: {run_command(path)}"
            raise RunFolderError("the stage has no decision yet", value=stage, mend=mend)
        _check_last(folder, ledger, list(config.stages), decided)
        decision = Decision.load(place.gate)
        if decision.outcome == "skip":
            mend = fork_command(folder, stage)
            raise RunFolderError("the stage was skipped: there is no model of it", value=stage, mend=mend)
        if ruling == "recover" and decision.alternatives:
            tried = ", ".join(other.model for other in decision.alternatives)
            raise RunFolderError("the stage's other models were tried", value=tried, mend="--accept or --rollback")
        ledger.append("ruled", stage, ruling=ruling, because=because, outcome=decision.outcome)
        if pending(ledger, stage) is not None and ruling != "recover":
            return carry_out(ledger, place)
        return decision


def pending(ledger: Ledger, stage: str) -> Record | None:
    """Return the ruling about a stage that hasn't been carried out, or None."""
    ruled, decided = ledger.find("ruled", stage), ledger.find("decided", stage)
    return ruled if ruled and (decided is None or ruled.number > decided.number) else None


def carry_out(ledger: Ledger, place: StageFolder) -> Decision:
    """Give a stage the outcome that was ruled, accept or rollback, in gate.json and ledger."""
    ruled, decided = pending(ledger, place.name), ledger.find("decided", place.name)
    assert ruled is not None, "there is a ruling to carry out"
    assert decided is not None, "only decisions are ruled about"
    accepted = ruled.details["ruling"] == "accept"
    decision = Decision.load(place.gate)
    said = f"{'accepted' if accepted else 'rolled back'} by hand: {ruled.details['because']}"
    if said not in decision.reasons:
        reasons = (*decision.reasons, said)
        decision = replace(decision, outcome="promote" if accepted else "rollback", reasons=reasons)
        decision.save(place.gate)
    kept = {name: decided.details[name] for name in ("parent", "weights") if name in decided.details}
    ledger.append("decided", place.name, **kept, **decision.summary(), ruling=ruled.hash)
    return decision


def _check_last(folder: RunFolder, ledger: Ledger, stages: list[str], decided: Record) -> None:
    """Refuse to rule about a stage that later ones rest on."""
    assert decided.stage is not None, "decisions are about stages"
    after = stages[stages.index(decided.stage) + 1 :]
    begun = [r.stage for r in ledger.records if r.stage in after and r.event in ("stage_started", "decided")]
    if begun:
        raise RunFolderError(
            f"the stages after {decided.stage} rest on its decision",
            value=", ".join(dict.fromkeys(str(name) for name in begun)),
            mend=f"go on another way in a run of its own: {fork_command(folder, str(begun[0]))}",
        )
