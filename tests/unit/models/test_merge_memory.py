"""A merge of checkpoints that are larger than the memory it holds."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from nemo_cascade.models.hf_folder import HfTensors

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

MIB, LAYERS = 2**20, 28
_MERGE = """
import sys
from pathlib import Path
from nemo_cascade.models.merge import Blend, merge_models
one, other, target = map(Path, sys.argv[1:4])
merge_models([one, other], Blend(0.25, sys.argv[4], 0.2), target, one if sys.argv[4] == "ties" else None)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def checkpoint(folder, seed):
    """Write 2 GiB of bf16: an embedding of 256 MiB and layers of 64 MiB, eight layers a file."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    noise = torch.randn(32 * MIB, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    places = {}
    for first in range(-1, LAYERS, 8):
        tensors = {}
        for layer in range(first, min(first + 8, LAYERS)):
            if layer < 0:
                tensors["embed"] = noise.repeat(4).reshape(-1, 1024)
            else:
                rolled = noise.roll(layer)
                tensors |= {f"{layer}.up": rolled[: 16 * MIB].reshape(-1, 2048), f"{layer}.down": rolled[16 * MIB :]}
        name = f"model-{first}.safetensors"
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, folder / name)
        places |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.parametrize("method", ["linear", "slerp", "ties"])
def test_two_checkpoints_of_two_gib_are_merged_within_one(tmp_path, method):
    one, other = (checkpoint(tmp_path / name, seed) for seed, name in enumerate(("one", "other")))
    files = HfTensors(one)
    size = sum(torch.Size(stored.shape).numel() * 2 for stored in files.stored.values())
    assert size == 2 * 2**30
    target = tmp_path / "merged"
    command = [sys.executable, "-c", _MERGE, str(one), str(other), str(target), method]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    # The kernel's high-water mark of this program: getrusage's begins with that of the process that started it.
    peak_mib = int(ended.stdout) / 1024
    print(f"{method}: {peak_mib:.0f} MiB at most")
    assert peak_mib < 1024
    merged, others = HfTensors(target), HfTensors(other)
    assert merged.stored.keys() == files.stored.keys()
    if method == "linear":
        for name in ("embed", "0.up", f"{LAYERS - 1}.down"):
            found, left, right = (source.part(name)[-5:] for source in (merged, files, others))
            due = torch.lerp(left.float(), right.float(), 0.25).to(torch.bfloat16)
            assert torch.equal(found, due), name
