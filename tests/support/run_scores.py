"""What a finished run says of itself: its gates' rows, and comparisons of the mean of its domains."""

import json
from pathlib import Path

import numpy as np

from nemo_cascade.evaluation.scores import Scores


def stage_folder(run: Path, stage: str) -> Path:
    """The folder of a stage by its name."""
    (folder,) = run.glob(f"stages/*-{stage}")
    return folder


def gate_row(run: Path, stage: str, domain: str) -> dict:
    """A domain before and after a stage, as the gate compared it."""
    rows = json.loads((stage_folder(run, stage) / "gate.json").read_text())["rows"]
    (row,) = (row for row in rows if row["domain"] == domain)
    return row


def outcomes(run: Path) -> dict[str, str]:
    """What the gate decided of each stage."""
    gates = sorted(run.glob("stages/*/gate.json"))
    return {gate.parent.name.partition("-")[2]: json.loads(gate.read_text())["outcome"] for gate in gates}


def mean_difference(run: Path, stage: str, other: str, domains: list[str]) -> tuple[float, float]:
    """How much better a stage is than another on the mean of the domains, and its standard error, paired by prompt."""
    one, two = (Scores.load(stage_folder(run, name) / "scores.json") for name in (stage, other))
    differences, variances = [], []
    for domain in domains:
        prompts = sorted(one.samples[domain])
        assert prompts == sorted(two.samples[domain])
        gaps = [np.mean(one.samples[domain][p]) - np.mean(two.samples[domain][p]) for p in prompts]
        differences.append(np.mean(gaps))
        variances.append(np.var(gaps, ddof=1) / len(gaps))
    return float(np.mean(differences)), float(np.sqrt(np.sum(variances)) / len(domains))
