"""The GPU image's own steps, carried out in a chroot of this machine's root, without a builder or a base image.

Not the compiling of Transformer Engine's extension, which takes CUDA's compiler for half an hour: its other parts can't
be imported without it, and are taken out before the last step.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.containers.chroot import chroot, instructions
from tests.containers.test_images import python_312

ROOT = Path(__file__).resolve().parents[2]
NEEDED_GB = 40
UNREACHABLE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Temporary failure", re.IGNORECASE)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_gpu_image_s_steps_end_with_an_import_of_everything_together(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may mount and change roots")
    if (python := python_312()) is None:
        pytest.skip("no Python 3.12")
    if (free := shutil.disk_usage(tmp_path).free // 10**9) < NEEDED_GB:
        pytest.skip(f"{free} GB free, {NEEDED_GB} GB are needed")
    steps = instructions((ROOT / "containers" / "Dockerfile").read_text(), ("libraries", "cascade"))
    compiling = [step for step in steps if step.startswith("RUN") and "/opt/locks/source.lock" in step]
    assert len(compiling) == 1
    try:
        with chroot(tmp_path, ROOT, Path(os.path.realpath(python))) as box:
            for step in steps:
                if step in compiling:
                    box.run("pip uninstall --yes transformer-engine transformer-engine-cu13")
                    box.run("rm -rf /opt/venv/lib/python3.12/site-packages/transformer_engine")
                else:
                    box.carry_out(step)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no overlay here: {error.stderr.decode().strip()}")
    except AssertionError as error:
        if UNREACHABLE.search(str(error)):
            pytest.skip("no package registry can be reached")
        raise
