"""Runs side by side on one page: scores, paired differences on the same prompts, configurations, training curves.

Every run is compared with the first one. A stage is compared with the stage of the same name; `at the end` is the model
that the cascade went on from last, whatever its stage is called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.cascade.decision import Decision
from nemo_cascade.cascade.folder import RunFolder, StageFolder, names_apart
from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.stages.base import START
from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.paired import compare_paired
from nemo_cascade.evaluation.scores import DomainScores, Scores
from nemo_cascade.report.curves import SPECS, Chart, Spec, column
from nemo_cascade.report.findings import ALPHA, Difference, write_findings
from nemo_cascade.report.matrix import Matrix, collect_matrix
from nemo_cascade.report.page import environment
from nemo_cascade.report.plots import COLORS, Series, line_chart, score_chart
from nemo_cascade.storage.atomic import write_atomically
from nemo_cascade.telemetry.metrics import read_metrics

END = "at the end"
_ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Arm:
    """One run of a comparison.

    Attributes:
        name: its folder's, with those above it where another run has the same.
        config: its configuration, as stored.
        matrix: its scores and decisions.
        stages: the folders of its stages by name, in order.
        scores: stage -> scores on all suites; END is among them.
        end: the stage that the cascade went on from last.
        tokens: tokens trained on, over all stages.
    """

    name: str
    config: Mapping[str, Any]
    matrix: Matrix
    stages: Mapping[str, StageFolder]
    scores: Mapping[str, Scores]
    end: str
    tokens: float


def write_comparison(folders: Sequence[Path], target: Path, *, title: str = "", question: str = "") -> Path:
    """Write the page that compares runs and, beside it, its figures as JSON; return the page's path.

    Args:
        folders: run folders, the first is what the others are compared with.
        target: the page.
        title: its heading; the runs' names by default.
        question: what the comparison is to tell.

    Raises:
        RunFolderError: a folder is named twice, or a part of a run that is needed can't be read.
    """
    names = names_apart([folder.resolve() for folder in folders])
    if len(set(names)) != len(names):
        raise RunFolderError("a run twice", value=", ".join(names), mend="name each run once")
    arms = [replace(read_arm(folder), name=name) for folder, name in zip(folders, names, strict=True)]
    first, others = arms[0], arms[1:]
    differences = {arm.name: differences_between(first, arm) for arm in others}
    forgotten = {arm.name: forgetting(arm) for arm in arms}
    ends = {name: [entry for entry in found if entry.what == END] for name, found in differences.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    findings = write_findings(target.with_suffix(".json"), question, ends, forgotten)
    page = (
        environment()
        .get_template("compare.html.j2")
        .render(
            title=title or " / ".join(names),
            question=question,
            arms=arms,
            legend_entries=tuple((arm.name, i % COLORS) for i, arm in enumerate(arms)),
            plots=score_plots(arms),
            differences=differences,
            compared=sum(entry.paired is not None for found in differences.values() for entry in found),
            alpha=ALPHA,
            forgetting=forgotten,
            findings=findings,
            settings=different_settings(arms),
            curves=training_curves(arms),
        )
    )
    write_atomically(target, page.encode())
    return target


def read_arm(path: Path) -> Arm:
    """Read a run folder for a comparison; the run may be unfinished.

    Raises:
        RunFolderError: it is none, or a part that is needed can't be read.
    """
    folder = RunFolder.begun(path.resolve())
    stages = {stage.name: stage for stage in folder.stages()}
    scores = {name: Scores.load(stage.scores) for name, stage in stages.items() if stage.scores.is_file()}
    gone_on = [n for n, s in stages.items() if n in scores and s.gate.is_file() and Decision.load(s.gate).goes_on]
    end = gone_on[-1] if gone_on else START
    tokens = sum(
        float(np.nansum(column(lines, "tokens"))) for s in stages.values() if (lines := read_metrics(s.metrics))
    )
    if end in scores:
        scores[END] = scores[end]
    return Arm(folder.name, folder.stored_config(), collect_matrix(folder), stages, scores, end, tokens)


def differences_between(first: Arm, other: Arm) -> list[Difference]:
    """Compare two runs' stages of the same name, and their ends, in every domain that both were scored on."""
    stages = [stage for stage in other.scores if stage in first.scores and stage != START]
    return [
        _difference(stage, domain, first.scores[stage], other.scores[stage])
        for stage in stages
        for domain in other.scores[stage].samples
        if domain in first.scores[stage].samples
    ]


def forgetting(arm: Arm) -> list[Difference]:
    """Compare the end with the last stage that promised to raise a domain and that the cascade went on from."""
    found = []
    rows = {row.stage: row for row in arm.matrix.rows}
    for domain in arm.matrix.domains:
        owners = [
            name
            for name, stage in arm.config.get("stages", {}).items()
            if domain in stage.get("promise", {}).get("improve", ())
            and name in rows
            and (decision := rows[name].decision)
            and decision.goes_on
        ]
        if owners and END in arm.scores and domain in arm.scores[END].samples and owners[-1] != arm.end:
            found.append(_difference(f"{owners[-1]} to {arm.end}", domain, arm.scores[owners[-1]], arm.scores[END]))
    return found


def score_plots(arms: Sequence[Arm]) -> list[Chart]:
    """Draw each domain's score over the stages, one curve for each run."""
    order = dict.fromkeys(stage for arm in arms for stage in arm.scores if stage != END)
    stages = [*order, END]
    charts = []
    for domain in dict.fromkeys(domain for arm in arms for domain in arm.matrix.domains):
        curves = {arm.name: [_point(arm.scores.get(stage), domain) for stage in stages] for arm in arms}
        if any(point is not None for points in curves.values() for point in points):
            svg = score_chart(stages, curves)
            charts.append(Chart(domain, "score by stage; error bars: one standard error", svg, (), ""))
    return charts


def training_curves(arms: Sequence[Arm]) -> dict[str, list[Chart]]:
    """Draw the first curve of every chart of a stage, one for each run that has the stage."""
    found: dict[str, list[Chart]] = {}
    for stage in dict.fromkeys(name for arm in arms for name in arm.stages):
        lines = [read_metrics(arm.stages[stage].metrics) if stage in arm.stages else [] for arm in arms]
        charts = [chart for spec in SPECS if (chart := _overlay(spec, lines, arms))]
        if charts:
            found[stage] = charts
    return found


def different_settings(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Return the keys of the configuration whose values aren't the same in all runs, with each run's value."""
    flat = [flatten(arm.config) for arm in arms]
    keys = [key for key in dict.fromkeys(key for values in flat for key in values) if key not in ("name", "resume")]
    rows = [(key, [str(values.get(key, _ABSENT)) for values in flat]) for key in keys]
    order = [", ".join(arm.config.get("stages", {})) for arm in arms]
    return [(key, values) for key, values in [("order of the stages", order), *rows] if len(set(values)) > 1]


def _difference(what: str, domain: str, before: Scores, after: Scores) -> Difference:
    left, right = before.domain(domain), after.domain(domain)
    if set(left.prompt_ids) != set(right.prompt_ids):
        return Difference(what, domain, _mean(left), _mean(right), None)
    prompts, left_n, right_n = _aligned(left, right)
    by_prompt = dict(zip(prompts, (right_n - left_n).tolist(), strict=True))
    return Difference(
        what, domain, _mean(left), _mean(right), compare_paired(right_n, left_n) if prompts else None, by_prompt
    )


def _aligned(left: DomainScores, right: DomainScores) -> tuple[list[str], Any, Any]:
    """Return prompts and both scores, in one order, without those that miss on a side."""
    row_of = {prompt: row for row, prompt in enumerate(left.prompt_ids)}
    left_n, right_n = left.score_n[[row_of[prompt] for prompt in right.prompt_ids]], right.score_n
    both_n = ~np.isnan(left_n) & ~np.isnan(right_n)
    prompts = [prompt for prompt, both in zip(right.prompt_ids, both_n, strict=True) if both]
    return prompts, left_n[both_n], right_n[both_n]


def _mean(scores: DomainScores) -> float:
    score = scores.summary()["score"]
    return float("nan") if score is None else float(score)


def _point(scores: Scores | None, domain: str) -> tuple[float, float] | None:
    if scores is None or domain not in scores.samples:
        return None
    entry = scores.domain(domain).summary()
    return None if entry["score"] is None else (entry["score"], entry["stderr"] or 0.0)


def _overlay(spec: Spec, lines: Sequence[Sequence[Mapping[str, Any]]], arms: Sequence[Arm]) -> Chart | None:
    name, label = next(iter(spec.curves.items()))
    series = []
    for arm, records in zip(arms, lines, strict=True):
        # A run without the stage keeps its colour, and draws nothing.
        steps = np.array([record["step"] for record in records] or [1.0], dtype=np.float64)
        values = column(records, name) if records else np.array([np.nan])
        series.append(Series(arm.name, steps, values))
    known = np.concatenate([s.y for s in series])
    known = known[np.isfinite(known)]
    if not known.size or (spec.log and known.max() <= 0) or (spec.only_if_any and not known.any()):
        return None
    unit = ", ".join(part for part in (label if len(spec.curves) > 1 else "", spec.unit) if part)
    return Chart(spec.title, unit, line_chart(series, log=spec.log, zero=spec.zero), (), "")
