"""Published rows as figures of the four quantities."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.planner.published.decode_rows import served_case
from nemo_cascade.planner.published.memory_rows import peak_case
from nemo_cascade.planner.published.rl_rows import rl_step
from nemo_cascade.planner.published.train_rows import Row, Unread, published_seconds, train_job
from nemo_cascade.planner.quantity import DECODE, MEMORY, RL, TRAIN, Quantity


@dataclass(frozen=True, slots=True)
class Figure:
    """One published figure.

    Attributes:
        name: of its row.
        quantity: what it is a figure of.
        subject: what the quantity's formula reads.
        value: in the quantity's unit.
        configuration: model, machine, precision, task: figures of one configuration aren't split by a validation.
        groups: names that errors are told by.
    """

    name: str
    quantity: Quantity
    subject: Any
    value: float
    configuration: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadRows:
    """What a file holds: figures, and how many rows were left out for which reason."""

    figures: tuple[Figure, ...]
    left_out: Mapping[str, int]

    def of(self, quantity: Quantity) -> list[Figure]:
        """Return the figures of one quantity."""
        return [figure for figure in self.figures if figure.quantity is quantity]


def read_rows(path: Path) -> ReadRows:
    """Read a file of published figures, a JSON object a line.

    Raises:
        ConfigError: it is missing, or lines aren't objects with `kind` and `id`.
    """
    if not path.is_file():
        raise ConfigError(
            [CascadeError("no such file of published figures", value=path, mend="--published FILE.jsonl")]
        )
    rows, problems = [], []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            problems.append(
                CascadeError(f"line {number} of {path} isn't JSON", value=error, mend="write one JSON object a line")
            )
            continue
        if not isinstance(row, dict) or not isinstance(row.get("kind"), str) or "id" not in row:
            problems.append(
                CascadeError(
                    f"line {number} of {path} isn't a figure",
                    limit="an object with kind and id",
                    mend="write one JSON object a line with kind and id",
                )
            )
            continue
        rows.append(row)
    if problems:
        raise ConfigError(problems)
    return figures_of(rows)


def figures_of(rows: Iterable[Row]) -> ReadRows:
    """Return the rows' figures; what can't be read is counted by its reason, never an error."""
    figures: list[Figure] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        found: Sequence[Figure | Unread]
        try:
            found = _read(row)
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            found = [Unread(f"{row['kind']}: malformed ({type(error).__name__}: {error})")]
        for one in found:
            if isinstance(one, Unread):
                left_out[one.reason] += 1
            else:
                figures.append(one)
    return ReadRows(tuple(figures), left_out)


def _read(row: Row) -> list[Figure | Unread]:
    kind = row["kind"]
    if kind == "train":
        peaks = [_peak(row)] if row.get("peak_mem_gib") or row.get("peak_mem_gb") else []
        return [_train(row), *peaks]
    if kind == "golden":
        return [_peak(row)]
    if kind == "decode":
        return [_decode(row)]
    if kind == "rl_step":
        return [_rl(row)]
    return [Unread(f"{kind}: no quantity of a plan")]


def _train(row: Row) -> Figure | Unread:
    job = train_job(row)
    if isinstance(job, Unread):
        return Unread(f"train: {job.reason}")
    seconds = published_seconds(row, job)
    if not seconds:
        return Unread("train: no seconds, tokens a second or TFLOP/s published")
    configuration = (job.shape.name, job.hardware.name, job.precision, job.task)
    tuned = "tuned" if job.software.tuned else "not tuned"
    more = (
        [f"tuned {job.shape.family}", f"tuned {job.hardware.name}", f"tuned {job.precision}"]
        if job.software.tuned
        else []
    )
    return Figure(str(row["id"]), TRAIN, job, seconds, configuration, ("all", tuned, *more, job.software.name))


def _peak(row: Row) -> Figure | Unread:
    found = peak_case(row)
    if isinstance(found, Unread):
        return Unread(f"memory: {found.reason}")
    job, asked = found.asked.job, found.asked
    configuration = (job.shape.name, job.hardware.name, job.precision, job.task)
    size = "toys" if asked.small else "real sizes"
    return Figure(str(row["id"]), MEMORY, asked, found.peak, configuration, ("all", size, asked.software))


def _decode(row: Row) -> Figure | Unread:
    case = served_case(row)
    if isinstance(case, Unread):
        return Unread(f"decode: {case.reason}")
    engine = case.engine
    configuration = (engine.shape.name, engine.hardware.name, str(engine.weight_bytes))
    groups = ("all", engine.shape.family, engine.hardware.name)
    return Figure(str(row["id"]), DECODE, case, float(row["output_tokens_per_s_per_gpu"]), configuration, groups)


def _rl(row: Row) -> Figure | Unread:
    step = rl_step(row)
    if isinstance(step, Unread):
        return Unread(f"rl: {step.reason}")
    configuration = (step.job.shape.name, step.job.hardware.name, step.job.precision, step.job.task)
    groups = ("all", step.job.shape.family, "together" if step.together else "apart")
    return Figure(str(row["id"]), RL, step, float(row["step_time_s"]), configuration, groups)
