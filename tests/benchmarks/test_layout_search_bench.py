"""The search for layouts against the best published layouts of Megatron's runs."""

from pathlib import Path

import pytest

from nemo_cascade.planner.fitted import estimates, shipped
from nemo_cascade.planner.optimize import search
from nemo_cascade.planner.published.figures import read_rows
from nemo_cascade.planner.quantity import TRAIN

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

ROWS = Path(__file__).with_name("published.jsonl")
WITHIN, EVERY = 0.03, 4


def best_published():
    """Return the fastest published job of each model, machine, precision, batch and task that Megatron cut."""
    best = {}
    for figure in read_rows(ROWS).of(TRAIN):
        job = figure.subject
        if not job.software.tuned or job.storage.whole:
            continue
        sizes = (job.layout.ranks, job.sequence, round(job.step_tokens / job.sequence))
        configuration = (job.shape.name, *sizes, job.hardware.name, job.precision, job.task)
        if configuration not in best or figure.value < best[configuration].value:
            best[configuration] = figure
    return [best[key] for key in sorted(best)]


def cut(job):
    layout = job.layout
    sizes = {"tp": layout.tp, "pp": layout.pp, "vpp": layout.vpp, "cp": layout.cp, "ep": layout.ep}
    told = [f"{name}{size}" for name, size in sizes.items() if size > 1]
    return " ".join([*told, f"mbs{job.micro_batch}", *["whole"] * job.recompute.whole])


def test_the_published_best_layout_is_found_or_one_that_is_predicted_as_fast():
    """What is predicted to need no more memory than the published layout, which ran, counts as fitting, too."""
    figures, found = best_published()[::EVERY], 0
    print(f"\n{'model':16s} {'GPUs':>5s} {'machine':9s} {'':6s} published -> found, s predicted of both")
    for figure in figures:
        job = figure.subject
        (best, *_) = search(job, job.layout.ranks, micro_batches=(1, 2, 4, 8), ran=job)
        own = estimates(TRAIN, shipped("train"), [job])[0].value
        same = best.job.layout == job.layout or abs(own / best.step.value - 1) <= WITHIN
        found += same
        print(
            f"{job.shape.name:16s} {job.layout.ranks:5d} {job.hardware.name:9s} {job.precision:6s} {cut(job)} -> "
            f"{cut(best.job)}, {own:.3g} {best.step.value:.3g} {'' if same else 'differs'}",
            flush=True,
        )
    print(f"found, or as fast within {WITHIN:.0%}: {found} of {len(figures)}")
    assert found >= 10
