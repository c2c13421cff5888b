"""The config files are plain Hydra: NeMo's own entry point makes the same run of them as our command line does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_cascade.config.reading import strict
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.shipped import SHIPPED_CONF

# Where `make` puts the packages that only comparisons need.
PEERS = Path(sys.prefix) / "peers"
PROGRAM = """
import json, sys
try:
    from nemo.core.config import hydra_runner
except ImportError as error:
    sys.exit(f"LACKING {error}")
from omegaconf import OmegaConf

@hydra_runner(config_path=sys.argv.pop(1), config_name="config")
def main(config):
    print("COMPOSED " + json.dumps(OmegaConf.to_container(config, resolve=True)))

main()
"""


def by_hydra_runner(folder, *overrides):
    """Return what hydra_runner hands to a function that it decorates."""
    command = [sys.executable, "-c", PROGRAM, str(SHIPPED_CONF), *overrides]
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{PEERS}"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if "LACKING" in done.stderr:
        pytest.skip(f"NeMo can't be imported here ({done.stderr.split('LACKING ')[1].strip()}): make peers")
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("COMPOSED ")]
    return json.loads(line.removeprefix("COMPOSED "))


@pytest.mark.parametrize(
    "overrides",
    [
        ["cascade=nano", "precision=bf16", "seed=7", "stages.sft1.optimizer.lr=3e-3", "++stages.sft2.max_steps=5"],
        ["cascade=nemotron_cascade/8b", "cluster=dgx_h100", "slurm=pyxis", "++slurm.container_image=/images/x.sqsh"],
    ],
    ids=["nano", "8B"],
)
def test_hydra_runner_of_nemo_makes_the_same_run_of_the_config_files(tmp_path, overrides):
    config = strict.to_run_config(by_hydra_runner(tmp_path, *overrides))
    assert config == compose(overrides)[0]
    assert config != compose(overrides[:1])[0]
