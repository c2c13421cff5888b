"""Which curves the report draws of a stage, and how it reads them from metrics.jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_cascade.evaluation.preference import PreferenceScores
from nemo_cascade.report.plots import COLORS, Float64, Series, calibration_chart, line_chart, stacked_chart
from nemo_cascade.telemetry.timers import PHASES

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Spec:
    """One chart.

    Attributes:
        title: above it.
        unit: beside the title.
        curves: metric name -> legend.
        log: logarithmic y axis.
        zero: the y axis starts at 0.
        only_if_any: leave the chart out where all values are 0.
    """

    title: str
    unit: str
    curves: Mapping[str, str]
    log: bool = False
    zero: bool = False
    only_if_any: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart.

    Attributes:
        title: above it.
        unit: beside the title.
        svg: inline SVG.
        legend: (label, colour number), for the page to write where there is more than one.
        last: the last value of the first curve, for people.
    """

    title: str
    unit: str
    svg: str
    legend: tuple[tuple[str, int], ...]
    last: str


MEASURED = "measured_"
"""What a suite's score between the steps is called in metrics.jsonl, before its domain; `mean` is that of all."""

_RATES = ("target", "drawn")

# One table for all kinds: a chart is drawn where its metrics are.
SPECS = (
    Spec("Reward", "mean of valid rollouts", {"reward_mean": "mean", "reward_std": "std"}),
    Spec("Loss", "per token, response, pair or rating", {"loss": "training", "validation_loss": "validation"}),
    Spec("Accuracy", "share of pairs", {"accuracy": "training", "holdout_accuracy": "hold-out"}),
    Spec(
        "Reward model's scores",
        "mean",
        {"margin": "chosen - rejected", "score_chosen": "chosen", "score_rejected": "rejected"},
    ),
    Spec(
        "Log-probability of a response",
        "mean over pairs",
        {"logprob_chosen": "chosen", "logprob_rejected": "rejected"},
    ),
    Spec(
        "Rewards of the policy",
        "beta x log-ratio to the reference",
        {"reward_chosen": "chosen", "reward_rejected": "rejected", "reward_gap": "gap by the judges"},
    ),
    Spec(
        "Groups without signal",
        "share of groups",
        {"solved_all": "all solved", "solved_none": "none solved"},
        zero=True,
    ),
    Spec(
        "Response length",
        "tokens",
        {"response_length_p50": "median", "response_length_p95": "p95", "response_length_max": "max"},
        zero=True,
    ),
    Spec("Truncated", "share of rollouts", {"truncation_rate": "truncated"}, zero=True),
    Spec("Age of rollouts", "steps", {"staleness_mean": "mean", "staleness_max": "oldest"}, zero=True),
    Spec("Entropy", "nats per token", {"entropy": "entropy"}, zero=True),
    Spec(
        "Trainer - engine",
        "|log-prob difference|",
        {
            "logprob_difference_mean": "mean",
            "logprob_difference_max": "max",
            "logprob_difference_mean_unreplayed": "mean without replay of experts",
        },
        log=True,
    ),
    Spec(
        "KL from the teachers",
        "nats per token",
        {"reverse_kl": "student from teachers", "forward_kl": "teacher from student"},
        zero=True,
    ),
    Spec("KL to the reference", "k3, nats per token", {"kl_reference": "kl"}, zero=True),
    Spec(
        "Clipped and corrected",
        "share of tokens",
        {"clip_fraction": "clipped", "correction_fraction": "corrected"},
        zero=True,
        only_if_any=True,
    ),
    Spec("Gradient norm", "before clipping", {"grad_norm": "norm"}, zero=True),
    Spec(
        "Load of the experts",
        "tokens, in shares of an equal load",
        {"expert_load_max": "most loaded", "expert_load_min": "least loaded"},
        zero=True,
    ),
    Spec(
        "Replayed routing",
        "share of the experts' choices",
        {"router_replay_share": "replayed", "router_replay_disagreement": "of those, the trainer's own are others"},
        zero=True,
    ),
    Spec("Learning rate", "", {"lr": "lr"}, zero=True),
    Spec(
        "Errors and drops",
        "per step",
        {
            "verdict_errors": "verifier errors",
            "responses_failed": "responses failed",
            "groups_dropped": "groups dropped",
            "rollouts_filtered": "rollouts filtered",
            "skipped": "steps skipped",
            "updates_empty": "updates empty",
        },
        zero=True,
        only_if_any=True,
    ),
    Spec("Throughput", "tokens per second", {"tokens_per_s": "tokens/s"}, zero=True),
)


def stage_charts(records: Records) -> list[Chart]:
    """Draw every chart whose metrics the stage has logged."""
    if not records:
        return []
    steps = np.array([record["step"] for record in records], dtype=np.float64)
    measured = {name: name.removeprefix(MEASURED) for record in records for name in record if name.startswith(MEASURED)}
    scores = Spec("Scores between the steps", "of the suites' first prompts", measured, zero=True)
    charts = [chart for spec in (scores, *SPECS) if (chart := _draw(spec, records, steps)) is not None]
    charts += _curricula(records, steps)
    phases = {name: np.nan_to_num(seconds) for name, seconds in phase_columns(records).items()}
    if phases:
        svg = stacked_chart(steps, phases)
        legend = tuple((name, i % COLORS) for i, name in enumerate(phases))
        total = sum(float(seconds[-1]) for seconds in phases.values())
        charts.append(Chart("Seconds by phase", "per step", svg, legend, f"{total:.3g}"))
    return charts


def _curricula(records: Records, steps: Float64) -> list[Chart]:
    """Draw the pass rates that a curriculum asks for, and those of the prompts that it found, task by task."""
    told = [_curricula_of(record) for record in records]
    names = list(dict.fromkeys(name for by_name in told for name in by_name))
    if not names:
        return []
    flat = [
        {f"{name} {rate}": by_name.get(name, {}).get(f"{rate}_pass_rate") for name in names for rate in _RATES}
        for by_name in told
    ]
    # Tasks are profiled anew together, so one target is every task's.
    curves = {f"{names[0]} target": "target"} | {f"{name} drawn": f"drawn {name}".strip() for name in names}
    chart = _draw(Spec("Pass rates of the curriculum", "mean of a batch's prompts", curves, zero=True), flat, steps)
    return [] if chart is None else [chart]


def _curricula_of(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what a line says of its curriculum, by task; one of the whole stage has no name."""
    by_task = record.get("stream_by_task")
    lines = {"": record, **(by_task if isinstance(by_task, Mapping) else {})}
    return {name: line["curriculum"] for name, line in lines.items() if isinstance(line.get("curriculum"), Mapping)}


def calibration(scores: PreferenceScores) -> Chart:
    """Draw a reward model's calibration on its hold-out pairs."""
    bins, unit = scores.bins, "hold-out: share ordered right, by predicted probability"
    svg = calibration_chart([b.predicted for b in bins], [b.observed for b in bins], [b.n for b in bins])
    told = [f"error {scores.calibration_error:.3f}"]
    if scores.by_gap:
        told.append("accuracy by the labels' gap " + ", ".join(f"{b.gap:.2g}: {b.accuracy:.3f}" for b in scores.by_gap))
    if (length := scores.length) is not None:
        told.append(f"the longer one preferred {length.longer_chosen:.0%}, scored higher {length.longer_scored:.0%}")
    if scores.errors:
        told.append("squared error " + ", ".join(f"{name} {error:.3g}" for name, error in scores.errors.items()))
    if known := {name: r for name, r in scores.correlations.items() if r is not None}:
        told.append("correlation " + ", ".join(f"{name} {r:.2f}" for name, r in known.items()))
    return Chart("Calibration", unit, svg, (), "; ".join(told))


def column(records: Records, name: str) -> Float64:
    """Return one metric over the steps; NaN where it wasn't measured, or where the file holds no number."""
    values = [record.get(name) for record in records]
    return np.array([value if isinstance(value, int | float) else np.nan for value in values], dtype=np.float64)


def phase_columns(records: Records) -> dict[str, Float64]:
    """Return seconds per step by phase, phases in their usual order, those that never ran left out."""
    found = [record.get("seconds") for record in records]
    seconds = [step if isinstance(step, Mapping) else {} for step in found]
    names = [name for name in PHASES if any(name in step for step in seconds)]
    return {name: column(seconds, name) for name in names}


def _draw(spec: Spec, records: Records, steps: Float64) -> Chart | None:
    columns = {label: column(records, name) for name, label in spec.curves.items()}
    present = {
        label: values
        for label, values in columns.items()
        if np.isfinite(values).any() and (not spec.only_if_any or np.nanmax(np.abs(values)) > 0)
    }
    if spec.log:
        present = {label: values for label, values in present.items() if np.nanmax(values) > 0}
    if not present:
        return None
    svg = line_chart([Series(label, steps, y) for label, y in present.items()], log=spec.log, zero=spec.zero)
    first = next(iter(present.values()))
    last = first[np.isfinite(first)][-1]
    legend = tuple((label, i % COLORS) for i, label in enumerate(present)) if len(present) > 1 else ()
    return Chart(spec.title, spec.unit, svg, legend, f"{last:,.0f}" if abs(last) >= 1000 else f"{last:.3g}")
