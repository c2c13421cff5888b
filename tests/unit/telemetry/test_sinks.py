"""Sinks follow what a run writes: the same last values in each; what a sink does never matters to the run."""

import importlib.util
import json
import logging
import os
import struct
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from nemo_cascade.config.logging import LoggingConfig, SinkConfig
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import ConfigError
from nemo_cascade.telemetry.metrics import MetricsLog
from nemo_cascade.telemetry.sinks.follow import Follower
from nemo_cascade.telemetry.sinks.processes import sinks_following

# `make sinks` installs what isn't among the lock's packages beside it.
EXTRAS = Path(__file__).parents[3] / ".venv" / "sinks"
TEN = ("reward_mean", "loss", "grad_norm", "lr", "tokens", "entropy", "truncation_rate", "tokens_per_s",
       "seconds/train", "seconds/generate")  # fmt: skip

OWN = """
import time

class Raises:
    def __init__(self, run): pass
    def log(self, stage, step, values): raise RuntimeError("no space in the cloud")
    def close(self): pass

class Hangs:
    def __init__(self, run): pass
    def log(self, stage, step, values): time.sleep(3600)
    def close(self): pass

class Dies:
    def __init__(self, run):
        import os
        os.abort()
"""


def line(step):
    values = {name: (number + 1) / 8 + step for number, name in enumerate(TEN) if "/" not in name}
    return {**values, "note": "text", "gap": None, "seconds": {"train": 1.5 * step, "generate": 0.25}}


def a_run(folder, sinks, **more):
    """Write the record that a sink's process reads; return the logging block."""
    config = LoggingConfig(sinks=sinks, **more)
    written = [{"kind": sink.kind, "settings": sink.settings} for sink in sinks]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "trial", "seed": 0, "logging": {"sinks": written}}))
    return config


def test_a_follower_yields_each_step_once_and_a_resumed_run_s_again(tmp_path):
    follower, metrics = Follower(tmp_path), tmp_path / "stages" / "01-sft" / "metrics.jsonl"
    log = MetricsLog(metrics)
    log.log(1, {"loss": 2.0, "seconds": {"train": 1.0}, "note": "x", "gap": None})
    assert list(follower.news()) == [("sft", 1, {"loss": 2.0, "seconds/train": 1.0})]
    log.log(2, {"loss": 1.0})
    with metrics.open("ab") as file:
        file.write(b'{"step":3,"lo')
    assert list(follower.news()) == [("sft", 2, {"loss": 1.0})]
    again = MetricsLog(metrics)
    again.truncate_from(2)
    again.log(2, {"loss": 1.25})
    assert list(follower.news())[-1] == ("sft", 2, {"loss": 1.25})
    (tmp_path / "scores.json").write_text(json.dumps({"sft": {"math": {"score": 0.5}}}))
    assert list(follower.news()) == [("sft", 2, {"score/math": 0.5})]


@pytest.mark.parametrize("name", ["Raises", "Hangs", "Dies"])
def test_a_sink_that_raises_hangs_or_dies_costs_the_run_nothing_but_its_deadline(tmp_path, caplog, name):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    config = a_run(tmp_path / "run", [SinkConfig(kind=f"{own}:{name}")], sink_deadline_s=4.0)
    log, slowest = MetricsLog(tmp_path / "run" / "stages" / "01-sft" / "metrics.jsonl"), 0.0
    with caplog.at_level(logging.WARNING), sinks_following(config, tmp_path / "run"):
        for step in range(1, 30):
            begun = time.monotonic()
            log.log(step, {"loss": 1.0})
            slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 2
    (warning,) = [record.getMessage() for record in caplog.records]
    told = {"Raises": "RuntimeError: no space in the cloud", "Hangs": "sink_deadline_s", "Dies": "failed"}[name]
    assert told in warning
    assert len(log.read()) == 29


def test_a_sink_that_isn_t_there_or_is_asked_for_more_than_it_takes_is_refused():
    with pytest.raises(
        ConfigError, match=r"unknown sink; got: neptune.*allowed: tensorboard, wandb, mlflow, prometheus"
    ):
        compose(["cascade=nano", "logging.sinks=[{kind: neptune}]"])
    with pytest.raises(ConfigError, match=r"settings of WandbSink: project, entity, mode; not projct"):
        compose(["cascade=nano", "logging.sinks=[{kind: wandb, settings: {projct: x}}]"])
    config, _ = compose(["cascade=nano", "logging=wandb"])
    assert config.logging.sinks[0].settings == {"project": "nemo-cascade", "entity": None, "mode": "offline"}


def scraped(address):
    text = urllib.request.urlopen(address).read().decode()
    rows = (row.rpartition(" ") for row in text.splitlines() if row and not row.startswith("#"))
    return {name.partition("{")[0].removeprefix("nemo_cascade_"): float(value) for name, _, value in rows}


def of_tensorboard(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return {
        value.tag: value.tensor.float_val[0]
        for file in sorted(folder.iterdir())
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }


def wandb_records(file):
    """Yield the records of a .wandb file: LevelDB's log behind seven bytes, in blocks of 32 KiB."""
    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def of_wandb(folder):
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = {}
    for data in wandb_records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def of_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    return dict(client.get_run((folder / "mlflow.run").read_text()).data.metrics)


def test_tensorboard_and_prometheus_hold_the_last_values_of_metrics_jsonl(tmp_path):
    compare(tmp_path, ["tensorboard", "prometheus"])


@pytest.mark.timeout(900)
def test_all_four_sinks_at_once_hold_the_last_values_of_metrics_jsonl(tmp_path, monkeypatch):
    if EXTRAS.is_dir():
        monkeypatch.syspath_prepend(str(EXTRAS))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXTRAS), os.environ.get("PYTHONPATH", "")]))
    if missing := [name for name in ("wandb", "mlflow") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (make sinks)")
    compare(tmp_path, ["tensorboard", "prometheus", "wandb", "mlflow"])


def compare(tmp_path, kinds):
    folder = tmp_path / "run"
    config = a_run(folder, [SinkConfig(kind=kind) for kind in kinds], sink_deadline_s=300.0)
    log = MetricsLog(folder / "stages" / "02-rl" / "metrics.jsonl")
    with sinks_following(config, folder):
        for step in range(1, 6):
            log.log(step, line(step))
        deadline, page = time.monotonic() + 200, {}
        while page.get("step") != 5.0 and time.monotonic() < deadline:
            time.sleep(0.2)
            if (folder / "prometheus.address").is_file():
                page = scraped((folder / "prometheus.address").read_text().strip())
    last = log.read()[-1]
    expected = {name: last["seconds"][name[8:]] if "/" in name else last[name] for name in TEN}
    assert {name: page[name.replace("/", "_")] for name in TEN} == expected
    tags = of_tensorboard(folder / "tensorboard" / "rl")
    assert {name: tags[name] for name in TEN} == pytest.approx(expected)
    for kind, read in (("wandb", of_wandb), ("mlflow", of_mlflow)):
        if kind in kinds:
            found = read(folder)
            assert {name: found[f"rl/{name}"] for name in TEN} == expected, kind
