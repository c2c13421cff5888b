"""The nano cascade under other seeds, other instruction sets and other numbers of threads; `make robust` runs it.

One CPU stands for others: what torch and oneDNN may use is cut down, so that sums are rounded in other ways and the run
takes another path. Each arm is a run of its own: the native ones stand where `nemo-cascade experiment` looks for the
first arms of an experiment over seeds, the others under runs/robust. A finished one is taken as it is, so the command
goes on where it was stopped. ROBUST_ARMS="0 3/avx2" runs some of them only; ROBUST_SIDE_BY_SIDE=2 two at a time.

Held: every arm ends with exit code 0; every RL stage raises its own domain (p < 0.001, one-sided, paired by prompt); a
stage is rolled back in at most one arm; other instructions of one seed give other losses in the first steps already.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS = Path("runs/robust")
CUT = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
OWN = {"rlhf": "chat", "if_rl": "instruction", "math_rl": "math", "code_rl": "code", "swe_rl": "swe"}
SEEDS, THREADED, LEVEL, ROLLED_BACK_AT_MOST = range(6), (0, 1), 1e-3, 1


@dataclass(frozen=True)
class Arm:
    """One run: a seed on a kind of machine."""

    seed: int
    instructions: str = "native"
    threads: int = 1

    @property
    def name(self) -> str:
        return f"{self.seed}-{self.instructions}-{self.threads}"

    @property
    def folder(self) -> Path:
        if (self.instructions, self.threads) != ("native", 1):
            return RUNS / self.name
        return (RUNS.parent / f"seed{self.seed}" if self.seed else RUNS.parent) / "nano"

    def run(self) -> dict[str, Any]:
        """Run it to its end, unless it is there; return what became of it."""
        outcome = self.folder / "robust.json"
        if not outcome.is_file():
            started = time.monotonic()
            command = [sys.executable, "-m", "nemo_cascade", "run", "cascade=nano", f"seed={self.seed}"]
            command += [f"runs_dir={self.folder.parent}", f"name={self.folder.name}"]
            if self.folder.parent == RUNS:
                command.append(f"data_dir={RUNS}/data-{self.seed}")
            command += [f"cluster.{role}_threads={self.threads}" for role in ("policy", "rollout")]
            for folder in (RUNS, self.folder.parent):
                folder.mkdir(parents=True, exist_ok=True)
            environment = os.environ | CUT.get(self.instructions, {})
            with (RUNS / f"{self.name}.log").open("w") as log:
                code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
            if not self.folder.is_dir():
                raise SystemExit(f"{self.name} did not start: see {RUNS / self.name}.log")
            outcome.write_text(json.dumps({"exit_code": code, "seconds": round(time.monotonic() - started)}))
        return json.loads(outcome.read_text())

    def gates(self) -> dict[str, dict[str, Any]]:
        """Return stage -> gate.json."""
        return {path.parent.name[3:]: json.loads(path.read_text()) for path in self.folder.glob("stages/*/gate.json")}

    def first_losses(self) -> list[str]:
        """Return the losses of the first steps, as they are written."""
        (metrics,) = self.folder.glob("stages/*-sft1/metrics.jsonl")
        return [str(json.loads(line)["loss"]) for line in metrics.read_text().splitlines()[:50]]


def arms() -> list[Arm]:
    """Return every seed natively and with one of the cuts, and two of them with two threads."""
    cuts = list(CUT)
    all_arms = [Arm(seed, cut) for seed in SEEDS for cut in ("native", cuts[seed % len(cuts)])]
    all_arms += [Arm(seed, threads=2) for seed in THREADED]
    wanted = os.environ.get("ROBUST_ARMS", "").split()
    return [a for a in all_arms if not wanted or str(a.seed) in wanted or f"{a.seed}/{a.instructions}" in wanted]


def row(arm: Arm, outcome: dict[str, Any]) -> tuple[str, list[str]]:
    """Return an arm's line of the table, and what it fails."""
    gates, faults, cells = arm.gates(), [], []
    if outcome["exit_code"] != 0:
        faults.append(f"{arm.name}: exit code {outcome['exit_code']}")
    for stage, domain in OWN.items():
        found = next((r for r in gates.get(stage, {}).get("rows", ()) if r["domain"] == domain), None)
        if found is None or not (found["difference"] > 0 and found["p_greater"] < LEVEL):
            faults.append(f"{arm.name}: {stage} didn't raise {domain}: {found}")
        cells.append("-" if found is None else f"{found['parent_score']:.2f} -> {found['score']:.2f}")
    others = [f"{stage} {gate['outcome']}" for stage, gate in gates.items() if gate["outcome"] != "promote"]
    head = f"| {arm.seed} | {arm.instructions} | {arm.threads} | {outcome['exit_code']} | {outcome['seconds']} |"
    return f"{head} {' | '.join(cells)} | {', '.join(others) or 'all promoted'} |", faults


def same_bits(chosen: list[Arm]) -> tuple[list[str], list[str]]:
    """Return the arms that round like another one of their seed: faults and notes.

    Cut instructions that change no bit stand for no other CPU, which is a fault. Two threads may share the work out so
    that every sum stays in one of them: then the arm shows just that, which is noted.
    """
    seen: dict[tuple[int, tuple[str, ...]], Arm] = {}
    faults, notes = [], []
    for arm in chosen:
        key = (arm.seed, tuple(arm.first_losses()))
        like = seen.setdefault(key, arm)
        if like is not arm:
            text = f"{arm.name} has the bits of {like.name}"
            (notes if like.instructions == arm.instructions else faults).append(text)
    return faults, notes


def main() -> int:
    chosen = arms()
    with ThreadPoolExecutor(int(os.environ.get("ROBUST_SIDE_BY_SIDE", "1"))) as pool:
        outcomes = list(pool.map(Arm.run, chosen))
    titles = [
        "seed",
        "instructions",
        "threads",
        "exit",
        "s",
        *(f"{own} ({stage})" for stage, own in OWN.items()),
        "gates",
    ]
    lines, faults = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"], []
    for arm, outcome in zip(chosen, outcomes, strict=True):
        line, wrong = row(arm, outcome)
        lines.append(line)
        faults += wrong
    rolled = [a.name for a in chosen if any(g["outcome"] == "rollback" for g in a.gates().values())]
    if len(rolled) > ROLLED_BACK_AT_MOST:
        faults.append(f"rolled back in {len(rolled)} arms, {ROLLED_BACK_AT_MOST} allowed: {', '.join(rolled)}")
    same, notes = same_bits(chosen)
    faults += same
    text = "\n".join([*lines, "", *notes])
    (RUNS / "table.md").write_text(text + "\n")
    print(text, *(f"FAULT {fault}" for fault in faults), f"{len(chosen)} arms, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
