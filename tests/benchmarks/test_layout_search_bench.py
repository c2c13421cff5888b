"""The search for layouts against the best published layouts of Megatron's runs: found, or predicted no slower."""

from pathlib import Path

import pytest

from nemo_cascade.planner.fitted import estimates, shipped
from nemo_cascade.planner.optimize import search
from nemo_cascade.planner.published.figures import read_rows
from nemo_cascade.planner.quantity import TRAIN

pytestmark = pytest.mark.bench

ROWS = Path(__file__).with_name("published.jsonl")
WITHIN = 0.03


def best_published():
    """Return the fastest published job of each model, machine, precision, batch and task of several GPUs."""
    best = {}
    for figure in read_rows(ROWS).of(TRAIN):
        job = figure.subject
        if not job.software.tuned or job.storage.whole or job.layout.ranks == 1:
            continue
        configuration = (*figure.configuration, job.layout.ranks, job.sequence, job.micro_batch * job.micro_batches)
        if configuration not in best or figure.value < best[configuration].value:
            best[configuration] = figure
    return [best[key] for key in sorted(best, key=str)]


def words(job):
    layout, again = job.layout, job.recompute
    sizes = {"tp": layout.tp, "pp": layout.pp, "vpp": layout.vpp, "cp": layout.cp, "ep": layout.ep}
    told = [f"{name}{size}" for name, size in sizes.items() if size > 1]
    return " ".join([*told, f"mbs{job.micro_batch}", "whole" if again.whole else "+".join(sorted(again.modules))])
