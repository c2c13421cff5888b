"""A run folder as the nano cascade leaves it when its gate holds math_rl; the weights are a few bytes."""

import json
from pathlib import Path

import numpy as np

from nemo_cascade.cascade.decision import Decision
from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.ledger import Ledger
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.evaluation.preference import preference_scores
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.storage.hashes import hash_folder
from nemo_cascade.telemetry.metrics import MetricsLog
from tests.unit.cascade.conftest import write_grpo_metrics, write_rollouts, write_sft_metrics


def decided_run(runs: Path, *, held: str = "math_rl") -> RunFolder:
    """Write runs/nano, all stages up to the held one."""
    config, provenance = compose(["cascade=nano"])
    folder, rng = RunFolder(runs / "nano"), np.random.default_rng(0)
    folder.path.mkdir(parents=True)
    folder.write_record(config, provenance)
    ledger, parent = Ledger(folder.ledger), "start"
    ledger.append("run_started", config="0" * 16, seed=0)
    _scores(folder.start, rng, 0)
    for index, (name, stage) in enumerate(config.stages.items(), 1):
        place = folder.stage(index, name)
        (place / "hf").mkdir(parents=True)
        (place / "hf" / "config.json").write_text(json.dumps(config.model.architecture))
        (place / "hf" / "model.safetensors").write_bytes(name.encode())
        train_nano_tokenizer((), place / "hf")
        weights = hash_folder(place / "hf")
        ledger.append("stage_started", name, kind=stage.kind, parent=parent, weights="a" * 64)
        if stage.kind == "grpo":
            write_grpo_metrics(place / "metrics.jsonl", 16, rng)
            write_rollouts(place, 1)
        elif stage.kind == "sft":
            write_sft_metrics(place / "metrics.jsonl", 16, rng)
        else:
            MetricsLog(place / "metrics.jsonl").log(1, {"loss": 0.5, "accuracy": 0.9})
            preference_scores([2.0, 1.0, 0.3, 0.4]).save(place / "preference.json")
        ledger.append("trained", name, weights=weights)
        if stage.kind != "reward_model":
            _scores(place, rng, index)
        outcome, reason = (
            ("hold", "code fell by more than 0.02") if name == held else ("promote", "every promise was kept")
        )
        decision = Decision(name, outcome, (reason,), (), 0.05, 0.02)
        decision.save(place / "gate.json")
        ledger.append("decided", name, parent=parent, weights=weights, **decision.summary())
        parent = name if stage.moves_policy else parent
        if name == held:
            break
    folder.collect_scores()
    return folder


def _scores(place: Path, rng: np.random.Generator, level: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    domains = ("math", "code")
    drawn = {d: {f"{d}/{i}": [float(rng.random() < 0.1 + 0.08 * level)] for i in range(20)} for d in domains}
    Scores(drawn).save(place / "scores.json")
