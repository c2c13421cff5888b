"""One real Slurm for all tests that need it, and a container runtime that gives each container a /tmp of its own."""

import tempfile
from pathlib import Path

import pytest

from tests.slurm.real_slurm import Slurm, lacking

REPOSITORY = Path(__file__).resolve().parents[2]
# As enroot does: a fresh /tmp in every container; host folders only where they are mounted. Options come as pairs.
APPTAINER = """#!/bin/bash
set -e
[[ $1 == exec ]] && shift
fresh=$(mktemp -d)
exec unshare --mount bash -c '
  fresh=$1; shift
  mount -t tmpfs tmpfs "$fresh"
  while [[ $1 == --* ]]; do
    case $1 in
      --bind) mkdir -p "$fresh/${2%%:*}"; mount --bind "${2%%:*}" "$fresh/${2%%:*}"; shift 2 ;;
      --pwd) cd "$2"; shift 2 ;;
      --nv) shift ;;
    esac
  done
  shift # the image
  [[ -d $fresh/tmp ]] || mkdir "$fresh/tmp"
  mount --rbind "$fresh/tmp" /tmp
  cd "$PWD"
  exec "$@"
' container "$fresh" "$@"
"""


@pytest.fixture(scope="session")
def slurm():
    """Return a running Slurm with four node names."""
    if (reason := lacking()) is not None:
        pytest.skip(reason)
    # Not below pytest's folder: paths of Slurm's sockets are short.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        tools = Path(folder) / "bin"
        tools.mkdir()
        (tools / "apptainer").write_text(APPTAINER)
        (tools / "apptainer").chmod(0o755)
        slurm = Slurm(Path(folder))
        try:
            slurm.start(tools)
            yield slurm
        finally:
            slurm.stop()


@pytest.fixture
def runs(slurm, monkeypatch):
    """Return a folder for runs; whatever starts there finds this checkout, in containers, too."""
    monkeypatch.setitem(slurm.environment, "PYTHONPATH", str(REPOSITORY))
    monkeypatch.setitem(slurm.environment, "OMP_NUM_THREADS", "1")
    folder = slurm.folder / "runs"
    folder.mkdir(exist_ok=True)
    return folder
