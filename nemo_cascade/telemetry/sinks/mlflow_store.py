"""MLflow: one run, metrics `stage/metric` by step; in a SQLite file of the run folder unless told otherwise."""

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

from nemo_cascade.telemetry.sinks.sink import SinkRun

_MOST_PARAMETERS = 1000


class MlflowSink:
    """Log to a tracking store.

    Args:
        run: the run.
        tracking_uri: store or server; None: `sqlite:///RUN_FOLDER/mlflow.db`.
        experiment: its name there.
    """

    def __init__(self, run: SinkRun, tracking_uri: str | None = None, experiment: str = "nemo-cascade") -> None:
        # Git is asked for a commit otherwise, and complains where there is none.
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        tracking = importlib.import_module("mlflow.tracking")
        self._entities = importlib.import_module("mlflow.entities")
        uri = tracking_uri or f"sqlite:///{(run.folder / 'mlflow.db').absolute()}"
        self._client: Any = tracking.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        mark = run.folder / "mlflow.run"
        if mark.is_file():
            self._run_id = mark.read_text(encoding="ascii")
        else:
            self._run_id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
            flat = {str(key): str(value)[:500] for key, value in run.config.items() if not isinstance(value, Mapping)}
            for key, value in list(flat.items())[:_MOST_PARAMETERS]:
                self._client.log_param(self._run_id, key, value)
            mark.write_text(self._run_id, encoding="ascii")

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""
        now = int(time.time() * 1000)
        metric = self._entities.Metric
        metrics = [metric(f"{stage}/{name}", value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id)
