"""The model card of a stage's model: recipe, data, scores with intervals, lineage, licence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from nemo_cascade.cascade.folder import RunFolder, StageFolder
from nemo_cascade.cascade.ledger import Record, read_ledger
from nemo_cascade.config.reading.provenance import config_hash, read_config, run_command
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.storage.hashes import hash_folder
from nemo_cascade.telemetry.metrics import read_metrics

_Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class Licences:
    """What the publisher says; nothing of it can be read from a run folder.

    Attributes:
        model: identifier of the exported model's licence, `apache-2.0`; None: not said.
        base: name of the model that the cascade started from, on the hub; None: not said.
    """

    model: str | None
    base: str | None


def model_card(folder: RunFolder, place: StageFolder, step: int | None, licences: Licences) -> str:
    """Return the card as Markdown with Hugging Face's front matter.

    Args:
        folder: the run.
        place: the stage whose model is exported.
        step: of its checkpoints; None: its result.
        licences: as the publisher says.

    Raises:
        RunFolderError: ledger, configuration or scores can't be read.
    """
    config, records = read_config(folder.path), read_ledger(folder.ledger)
    before = [stage for stage in folder.stages() if stage.index <= place.index and stage.name != START]
    pages = Environment(
        loader=PackageLoader("nemo_cascade.report", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template("card.md.j2").render(
        front=yaml.safe_dump(_front(config, licences), sort_keys=False),
        title=f"{folder.name}, {place.name}",
        described=licences.base or config.model.name,
        stage=place.name,
        step=step,
        scores=[] if step is not None else _scores(config, place),
        stages=[_stage(stage, config, records) for stage in before],
        command=run_command(folder.path),
        data=_data(folder, config, [stage.name for stage in before]),
        lineage=_lineage(place, config, records, step),
        licence=_licence(licences),
    )


def _front(config: RunConfig, licences: Licences) -> dict[str, Any]:
    said = {"license": licences.model, "base_model": licences.base}
    tags = sorted({"nemo-cascade", *(stage.kind for stage in config.stages.values() if ":" not in stage.kind)})
    fixed = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    return {key: value for key, value in said.items() if value is not None} | fixed


def _scores(config: RunConfig, place: StageFolder) -> list[dict[str, Any]]:
    if not place.scores.is_file():
        return []
    rows = []
    for domain, summary in Scores.load(place.scores).summary().items():
        if summary["score"] is None:
            continue
        half = _Z_95 * (summary["stderr"] or 0.0)
        suite = config.evaluation.suites.get(domain)
        verifier = suite.reward.kind if suite else ""
        bounds = {"low": summary["score"] - half, "high": summary["score"] + half}
        rows.append({**summary, **bounds, "domain": domain, "verifier": verifier})
    return rows


def _stage(stage: StageFolder, config: RunConfig, records: Sequence[Record]) -> Mapping[str, Any]:
    own = [record for record in records if record.stage == stage.name]
    details = {record.event: record.details for record in own}
    lines, settings = read_metrics(stage.metrics), config.stages.get(stage.name)
    trained = settings.trained() if settings else None
    return {
        "name": stage.name,
        "kind": settings.kind if settings else "",
        "parent": details.get("stage_started", {}).get("parent", ""),
        "steps": lines[-1]["step"] if lines else 0,
        "lr": f"{trained.optimizer.lr:g}" if trained else "",
        "gate": details.get("decided", {}).get("outcome", "not decided"),
    }


def _data(folder: RunFolder, config: RunConfig, names: Sequence[str]) -> list[dict[str, str]]:
    hygiene = folder.stored_hygiene() or {"files": {}}
    used: dict[str, list[str]] = {}
    for name in names:
        stage = config.stages.get(name)
        for use in stage.reads() if stage else ():
            used.setdefault(use.source.path, []).append(f"{name} ({use.role})")
    for domain, suite in config.evaluation.suites.items():
        used.setdefault(suite.path, []).append(f"{domain} (scores)")
    hashes = hygiene["files"]
    return [{"path": path, "used": ", ".join(by), "hash": str(hashes.get(path, ""))} for path, by in used.items()]


def _lineage(
    place: StageFolder, config: RunConfig, records: Sequence[Record], step: int | None
) -> list[tuple[str, str]]:
    first = next((r.details for r in records if r.event == "run_started"), {})
    facts = [("configuration", config_hash(config)), ("seed", str(config.seed))]
    if "code" in first:
        facts.append(("code", str(first["code"])))
    if step is None:
        facts.append(("weights (blake3)", hash_folder(place.hf)))
    if records:
        facts.append(("newest record of the ledger", records[-1].hash))
    return facts


def _licence(licences: Licences) -> str:
    if licences.model is None:
        return (
            "Not said: the weights inherit what the base model's licence and those of the data ask for. Say it before "
            "this is published: `nemo-cascade export --license ID`."
        )
    return (
        f"`{licences.model}`, as said by who exported it; the base model's licence and those of the data hold as well."
    )
