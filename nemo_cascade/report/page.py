"""The run's report: one self-contained HTML page, written at any time, also of an unfinished or a damaged run."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import TypeAdapter

from nemo_cascade.cascade.decision import Decision
from nemo_cascade.cascade.folder import RunFolder, StageFolder
from nemo_cascade.cascade.ledger import Record, read_ledger
from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.stages.base import START
from nemo_cascade.errors import CascadeError
from nemo_cascade.evaluation.preference import PreferenceScores
from nemo_cascade.report.budgets import budget_charts
from nemo_cascade.report.came_out import came_out
from nemo_cascade.report.curves import Chart, calibration, column, phase_columns, stage_charts
from nemo_cascade.report.matrix import Matrix, collect_matrix
from nemo_cascade.report.plots import COLORS, score_chart
from nemo_cascade.report.samples import Sample, stage_samples
from nemo_cascade.report.story import OUTCOME_WORDS, held_stage, outcome_line, ways_on
from nemo_cascade.rl.rewards import stage_formula
from nemo_cascade.storage.atomic import write_atomically
from nemo_cascade.telemetry.metrics import read_metrics

T = TypeVar("T")
D = TypeVar("D", Decision, Matrix, PreferenceScores)

_HASH = re.compile(r"[0-9a-f]{64}")
_LONG = 100
_RULES = {
    "truncation_rate": "truncation",
    "plateau": "plateau of the reward",
    "validation_loss": "validation loss",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a stage's configuration; `before` is the compared stage's, None where none is compared."""

    key: str
    value: str
    before: str | None


@dataclass(frozen=True, slots=True)
class StageView:
    """What the page shows of a stage."""

    name: str
    index: int
    kind: str
    state: str
    facts: tuple[tuple[str, str], ...]
    formula: str
    phases: tuple[tuple[str, float, float, int], ...]
    charts: tuple[Chart, ...]
    decision: Decision | None
    compared_with: str | None
    settings: tuple[Setting, ...]
    samples: tuple[Sample, ...]


class _Reader:
    """Read parts of a run; a damaged part becomes a notice on the page instead of no page.

    A file that another version wrote, or that somebody wrote by hand, may be sound JSON or YAML and hold something
    else than is looked for: whatever that leads to is told, too.
    """

    def __init__(self) -> None:
        self.notices: list[str] = []

    def read(self, part: Callable[[], T], otherwise: T, what: str) -> T:
        """Return the part, or `otherwise` with a notice that names it."""
        try:
            return part()
        except CascadeError as error:
            self.notices.append(str(error))
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError) as error:
            self.notices.append(f"{what} can't be shown: {type(error).__name__}: {error}")
        return otherwise


def write_report(run_folder: Path) -> Path:
    """Write report.html of a run folder, whatever state it is in, and return its path.

    Parts that can't be read are named at the top of the page.
    """
    folder, reader = RunFolder(run_folder), _Reader()
    config: dict[str, Any] = {}
    if folder.config.is_file():
        config = reader.read(folder.stored_config, config, "the configuration")
    for block in ("stages", "model"):
        if not isinstance(config.setdefault(block, {}), dict):
            reader.notices.append(f"{folder.config}: `{block}` holds no mapping")
            config[block] = {}
    records: list[Record] = reader.read(lambda: read_ledger(folder.ledger), [], "the ledger")
    matrix = reader.read(lambda: _sound(collect_matrix(folder)), Matrix((), ()), "the matrix of scores")
    found: list[StageFolder] = reader.read(folder.stages, [], "the list of stages")
    stages = [_stage_view(stage, config["stages"], records, reader) for stage in found if stage.name != START]
    states = dict.fromkeys(map(str, config["stages"]), "to come") | {stage.name: stage.state for stage in stages}
    scored = {row.stage for row in matrix.rows}
    hygiene = reader.read(folder.stored_hygiene, None, "which prompts sets share")
    timeline: list[dict[str, Any]] = reader.read(lambda: [_event(record) for record in records], [], "the ledger")
    facts: tuple[tuple[str, str], ...] = ()
    facts = reader.read(lambda: _run_facts(config, records, stages), facts, "the run's facts")
    shown = {
        "name": folder.name,
        "status": reader.read(lambda: _status(records, stages), ("open", "unknown", ""), "the state of the run"),
        "facts": facts,
        "matrix": matrix,
        "budgets": reader.read(lambda: _budgets(matrix, config), list[Chart](), "scores by budget"),
        "trend": reader.read(lambda: _trend(matrix), None, "the scores' chart"),
        "findings": reader.read(lambda: came_out(matrix), list[str](), "what came out"),
        "ways": reader.read(lambda: _ways(folder), list[tuple[str, str]](), "how the run goes on"),
        "pending": [(name, state) for name, state in states.items() if name not in scored],
        "stages": stages,
        "timeline": timeline,
    }
    template = environment().get_template("page.html.j2")

    def render(hygiene: dict[str, Any] | None) -> str:
        return template.render(**shown, hygiene=hygiene, notices=reader.notices)

    # The last part that is shown as it was found: with a notice in its place the page is drawn once more.
    page = reader.read(lambda: render(hygiene), None, "which prompts sets share") or render(None)
    write_atomically(folder.report, page.encode())
    return folder.report


def environment() -> Environment:
    """Return where the pages' templates are found, and what they may call."""
    environment = Environment(
        loader=PackageLoader("nemo_cascade.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": _named, "p": _p_value}
    return environment


def _stage_view(
    stage: StageFolder, configs: Mapping[str, Any], records: Sequence[Record], reader: _Reader
) -> StageView:
    name = stage.name
    config = configs.get(name, {})
    if not isinstance(config, Mapping):
        reader.notices.append(f"the configuration of {name} holds no mapping")
        config = {}
    metrics: list[dict[str, Any]] = reader.read(lambda: read_metrics(stage.metrics), [], f"{name}'s metrics")
    if odd := sorted({key for record in metrics for key, value in record.items() if not _is_metric(value)}):
        reader.notices.append(f"{stage.metrics}: no numbers: {', '.join(odd)}")
    decision = None
    if stage.gate.is_file():
        decision = reader.read(lambda: _sound(Decision.load(stage.gate)), None, f"{name}'s gate")
    before = reader.read(lambda: _stage_to_compare(name, configs), None, f"what {name} is compared with")
    charts: list[Chart] = reader.read(lambda: stage_charts(metrics), [], f"{name}'s charts")
    if stage.preference.is_file():
        load, what = PreferenceScores.load, f"{name}'s hold-out scores"
        charts += reader.read(lambda: [calibration(_sound(load(stage.preference)))], [], what)
    return StageView(
        name=name,
        index=stage.index,
        kind=str(config.get("kind", "")),
        state=reader.read(lambda: _stage_state(stage, decision, records), "unknown", f"{name}'s state"),
        facts=reader.read(lambda: _stage_facts(name, config, metrics, records), (), f"{name}'s facts"),
        formula=reader.read(lambda: stage_formula(config), "", f"{name}'s reward"),
        phases=reader.read(lambda: _phases(metrics), (), f"{name}'s seconds"),
        charts=tuple(charts),
        decision=decision,
        compared_with=before,
        settings=reader.read(
            lambda: _settings(config, configs[before] if before else None), (), f"{name}'s configuration"
        ),
        samples=reader.read(lambda: tuple(stage_samples(stage.rollouts)), (), f"{name}'s rollouts"),
    )


def _sound(read: D) -> D:
    """Return what was read, its values of the types that they must have: JSON keeps to none.

    Raises:
        ValueError: a value is of another type; names it.
    """
    checked: D = TypeAdapter(type(read)).validate_python(asdict(read))  # type: ignore[call-overload]
    return checked


def _is_metric(value: Any) -> bool:
    """Tell whether a metric is a number, None, or several of them by name."""
    if isinstance(value, Mapping):
        return all(_is_metric(inner) for inner in value.values())
    return value is None or isinstance(value, bool | int | float)


def _stage_state(stage: StageFolder, decision: Decision | None, records: Sequence[Record]) -> str:
    if decision is not None:
        return OUTCOME_WORDS[decision.outcome]
    if stage.scores.is_file():
        return "scored"
    trained = any(record.event == "trained" and record.stage == stage.name for record in records)
    return "trained" if trained else "training"


def _stage_facts(
    name: str, config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], records: Sequence[Record]
) -> tuple[tuple[str, str], ...]:
    started = [record for record in records if record.event == "stage_started" and record.stage == name]
    planned = config.get("steps") or config.get("max_steps")
    done = metrics[-1]["step"] if metrics else 0
    facts = [("steps", f"{done:,} of {planned:,}" if planned else f"{done:,}")]
    if metrics:
        tokens = np.nansum(column(metrics, "tokens"))
        facts.append(("trained tokens", _amount(float(tokens))))
        facts.append(("time", _duration(_seconds(metrics))))
    if started and "parent" in started[-1].details:
        facts.append(("starts from", str(started[-1].details["parent"])))
    if ended := [record.details for record in records if record.event == "stage_ended" and record.stage == name]:
        facts.append(("ended by", _ending(ended[-1])))
    if read := [record.details for record in records if record.event == "pairs_read" and record.stage == name]:
        facts += _round_facts(read[-1])
    return tuple(facts)


def _round_facts(read: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a round of a preference stage came to; of given pairs and ratings nothing."""
    if "prompts" not in read:
        return
    yield "round", f"{read['pairs']} pairs of {read['prompts']} prompts"
    left_out = {"tied": "tied", "low_quality": "too poor", "truncated": "cut off", "unjudged": "not judged"}
    if told := [f"{read[key]} {words}" for key, words in left_out.items() if read.get(key)]:
        yield "left out", ", ".join(told)
    for key, words in (("score_mean", "mean score"), ("reward_gap_mean", "mean gap")):
        if read.get(key) is not None:
            yield words, f"{read[key]:.3g}"


def _ending(end: Mapping[str, Any]) -> str:
    """Say which rule ended a stage (`rl.ending.End`)."""
    if end["value"] is None:
        return f"its {end['step']:,} steps"
    rule = _RULES[end["rule"]]
    return f"{rule} after {end['step']:,} steps: {end['value']:.3g}, rule {end['limit']:.3g}"


def _seconds(metrics: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(np.nansum(values) for values in phase_columns(metrics).values()))


def _phases(metrics: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, float, float, int], ...]:
    """Return (phase, seconds, share, colour number) over the whole stage."""
    totals = {name: float(np.nansum(values)) for name, values in phase_columns(metrics).items()}
    whole = sum(totals.values())
    if whole <= 0:
        return ()
    return tuple((name, s, s / whole, i % COLORS) for i, (name, s) in enumerate(totals.items()))


def _stage_to_compare(name: str, configs: Mapping[str, Any]) -> str | None:
    """Return the nearest earlier stage of the same kind."""
    if name not in configs:
        return None
    earlier = [n for n in list(configs)[: list(configs).index(name)] if isinstance(configs[n], Mapping)]
    return next((n for n in reversed(earlier) if configs[n].get("kind") == configs[name].get("kind")), None)


def _settings(config: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[Setting, ...]:
    now = flatten(config)
    if before is None:
        return tuple(Setting(key, _short(value), None) for key, value in now.items())
    then = flatten(before)
    keys = [*now, *(key for key in then if key not in now)]
    return tuple(
        Setting(key, _short(now.get(key, "(none)")), _short(then.get(key, "(none)")))
        for key in keys
        if now.get(key, "(none)") != then.get(key, "(none)")
    )


def _status(records: Sequence[Record], stages: Sequence[StageView]) -> tuple[str, str, str]:
    """Return (tone, state in a few words, explanation) of the run as a whole."""
    ends = [r for r in records if r.event in ("run_started", "run_stopped", "run_finished")]
    if ends and ends[-1].event == "run_finished":
        return "good", "finished", ""
    if ends and ends[-1].event == "run_stopped":
        return "bad", "stopped", str(ends[-1].details.get("error", "no reason recorded"))
    held = [stage for stage in stages if stage.state == "held"]
    if held and held[-1].decision is not None:
        return "bad", f"held by the gate after {held[-1].name}", held[-1].decision.reason
    return "open", "not finished", ""


def _ways(folder: RunFolder) -> list[tuple[str, str]]:
    """Return what takes a held run on; nothing where it isn't held."""
    held = held_stage(folder) if folder.ledger.is_file() else None
    return ways_on(folder, held[0]) if held else []


def _run_facts(
    config: Mapping[str, Any], records: Sequence[Record], stages: Sequence[StageView]
) -> tuple[tuple[str, str], ...]:
    facts = []
    if model := config.get("model", {}).get("name"):
        facts.append(("model", str(model)))
    if config.get("stages"):
        facts.append(("stages", outcome_line(records, list(config["stages"]))))
    if "seed" in config:
        facts.append(("seed", str(config["seed"])))
    if records:
        facts.append(("first event", _moment(records[0].time)))
        facts.append(("last event", _moment(records[-1].time)))
    return tuple(facts)


def _budgets(matrix: Matrix, config: Mapping[str, Any]) -> list[Chart]:
    suites = config["evaluation"]["suites"] if matrix.domains and "evaluation" in config else {}
    return budget_charts(matrix, suites)


def _trend(matrix: Matrix) -> Chart | None:
    if len(matrix.rows) < 2 or not matrix.domains:
        return None
    scores: dict[str, list[tuple[float, float] | None]] = {}
    for domain in matrix.domains:
        cells = [row.cells.get(domain) for row in matrix.rows]
        scores[domain] = [
            (cell.score, cell.stderr or 0.0) if cell is not None and cell.score is not None else None for cell in cells
        ]
    svg = score_chart([row.stage for row in matrix.rows], scores)
    legend = tuple((domain, i % COLORS) for i, domain in enumerate(matrix.domains))
    return Chart("Score by stage", "error bars: one standard error", svg, legend, "")


def _event(record: Record) -> dict[str, Any]:
    details = [(key, _short(value), str(value) if _is_hash(value) else "") for key, value in record.details.items()]
    return {
        "time": _moment(record.time),
        "event": record.event.replace("_", " "),
        "stage": record.stage or "",
        "details": details,
        "hash": record.hash,
    }


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _short(value: Any) -> str:
    if _is_hash(value):
        return f"{value[:10]}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping) and all(isinstance(inner, int | float | str) for inner in value.values()):
        text = ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[:_LONG]} ..."


def _named(svg: str, name: str) -> Markup:
    """Return a chart for the page, with a name for those who don't see it."""
    return Markup(svg.replace('role="img"', f'role="img" aria-label="{escape(name)}"', 1))


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _moment(time: str) -> str:
    return time[:19].replace("T", " ")


def _amount(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
