"""What is told while a run goes on, and whom."""

import difflib
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import AfterValidator, PositiveFloat, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from nemo_cascade.config.base import block
from nemo_cascade.config.plugins import completed_settings, is_plugin, loadable
from nemo_cascade.errors import CascadeError

_HERE = "nemo_cascade.telemetry.sinks"
SINKS: Mapping[str, str] = {
    "tensorboard": f"{_HERE}.tensorboard_events:TensorBoardSink",
    "wandb": f"{_HERE}.weights_and_biases:WandbSink",
    "mlflow": f"{_HERE}.mlflow_store:MlflowSink",
    "prometheus": f"{_HERE}.prometheus_page:PrometheusSink",
}
"""Name -> module and class."""
SINK_PACKAGES: Mapping[str, str] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "prometheus": "prometheus_client",
}
"""Name -> the module that it needs."""


def _known(name: str) -> str:
    if name not in SINKS and not is_plugin(name):
        near = difflib.get_close_matches(name, SINKS, n=1)
        mend = f"did you mean {near[0]}?" if near else "one of these, or your own: my_sink.py:Name"
        told = CascadeError("unknown sink", value=name, limit=", ".join(SINKS), mend=mend)
        raise PydanticCustomError("refused", "refused", {"problem": told})
    return loadable(name, SINKS)


@block
class SinkConfig:
    """One place that metrics go to, beside metrics.jsonl."""

    kind: Annotated[str, AfterValidator(_known)]
    """tensorboard, wandb, mlflow, prometheus; or your own, `my_package.my_module:Name` or `my_sink.py:Name`
    (telemetry/sinks/sink.py)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its constructor takes by name."""

    @field_validator("settings")
    @classmethod
    def _fit(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = info.data.get("kind")
        return given if kind is None else completed_settings(SINKS.get(kind, kind), given, 1)


@block
class LoggingConfig:
    """Where metrics go beside metrics.jsonl."""

    sinks: list[SinkConfig] = field(default_factory=list)
    """Each is a process of its own that reads what the run writes: one that fails or hangs costs the run nothing."""
    sink_deadline_s: PositiveFloat = 60.0
    """At a run's end a sink has this long to write what it has not written yet; then it is ended."""
    progress: bool = True
    """Live progress bars on a terminal."""
