"""A run in a few words for people: what became of its stages, where it stands, and the commands that take it on."""

import shlex
from collections.abc import Sequence

from nemo_cascade.cascade.decision import Decision
from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.ledger import Record, read_ledger
from nemo_cascade.config.reading.provenance import run_command

OUTCOME_WORDS = {
    "promote": "promoted",
    "recover": "recovered",
    "rollback": "rolled back",
    "skip": "skipped",
    "hold": "held",
}
_BECAUSE = '--because "why"'


def outcome_line(records: Sequence[Record], stages: Sequence[str]) -> str:
    """Return what became of a cascade: `3 of 3 stages decided: 2 promoted, 1 rolled back (code_rl)`."""
    last = {r.stage: str(r.details["outcome"]) for r in records if r.event == "decided" and r.stage in stages}
    told = []
    for outcome, word in OUTCOME_WORDS.items():
        names = [name for name in stages if last.get(name) == outcome]
        if names:
            told.append(f"{len(names)} {word}" + f" ({', '.join(names)})" * (outcome != "promote"))
    return f"{len(last)} of {len(stages)} stages decided: {', '.join(told) or 'none'}"


def held_stage(folder: RunFolder) -> tuple[str, Decision] | None:
    """Return the stage that the gate holds a run after, and the decision; None where it isn't held.

    Raises:
        RunFolderError: the ledger or a decision can't be read.
    """
    records = read_ledger(folder.ledger)
    decided = [r for r in records if r.event == "decided"]
    if not decided or decided[-1].details["outcome"] != "hold":
        return None
    stage = str(decided[-1].stage)
    if any(r.event == "ruled" and r.stage == stage and r.number > decided[-1].number for r in records):
        return None
    gate = next((place.gate for place in folder.stages() if place.name == stage and place.gate.is_file()), None)
    return None if gate is None else (stage, Decision.load(gate))


def fork_command(folder: RunFolder, stage: str) -> str:
    """Return the command that makes a stage anew in a run of its own."""
    return shlex.join(["nemo-cascade", "fork", str(folder.path), "--at", stage, f"name={folder.name}-{stage}-anew"])


def ways_on(folder: RunFolder, stage: str) -> list[tuple[str, str]]:
    """Return (what it does, the command) for everything that takes a run on which is held after a stage.

    The first ones rule, and the run's own command then goes on; the last is a way of its own.
    """
    decide = shlex.join(["nemo-cascade", "decide", str(folder.path), "--stage", stage])
    return [
        ("look for the stage's best other model", f"{decide} --recover {_BECAUSE}"),
        ("go on from its parent", f"{decide} --rollback {_BECAUSE}"),
        ("go on from it all the same", f"{decide} --accept {_BECAUSE}"),
        ("then, after any of these", run_command(folder.path)),
        ("or make the stage anew (add what is to differ)", fork_command(folder, stage)),
    ]


def ways_on_text(folder: RunFolder, stage: str) -> str:
    """Return `ways_on` as lines for a terminal."""
    ways = ways_on(folder, stage)
    width = max(len(meaning) for meaning, _ in ways)
    return "".join(f"\n    {meaning:<{width}}  {command}" for meaning, command in ways)
