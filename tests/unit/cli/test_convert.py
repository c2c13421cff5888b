"""`nemo-cascade convert`: through Megatron-Core and back, and what it says when a bit changed."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nemo_cascade.cli import main as command
from nemo_cascade.cli.verbs.models.convert import compare_folders
from tests.support.hf_models import PHI3, write_hf_model
from tests.support.tiny_policy import write_tiny_folder


@pytest.mark.distributed
def test_a_model_comes_back_bit_identical_and_a_changed_bit_is_found(tmp_path, capsys):
    source, back = Path(write_tiny_folder(tmp_path / "model", num_hidden_layers=1)), tmp_path / "back"
    assert command.main(["convert", str(source), str(back)]) == 0
    assert "tensors came back bit-identical" in capsys.readouterr().out
    file = back / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] += 1e-7
    save_file(tensors, file)
    different, count = compare_folders(source, back, tied=())
    assert different == ["model.norm.weight"]
    assert count == len(tensors)


@pytest.mark.distributed
def test_a_family_of_ones_own_comes_back_too(tmp_path, capsys):
    source, back = write_hf_model(tmp_path / "model", "phi3"), tmp_path / "back"
    assert command.main(["convert", str(source), str(back), "--family", PHI3]) == 0
    assert "tensors came back bit-identical" in capsys.readouterr().out


def test_what_cannot_be_converted_is_refused_before_anything_starts(tmp_path, capsys):
    source = write_tiny_folder(tmp_path / "model")
    assert command.main(["convert", source, str(tmp_path), "--tensor-model-parallel-size", "8"]) == command.REFUSED
    told = " ".join(capsys.readouterr().err.split())
    assert "num_key_value_heads 2 (of 4 heads) is not a multiple of tensor_model_parallel_size 8" in told
    assert "the target exists" in told
    assert command.main(["convert", str(tmp_path / "none"), str(tmp_path / "x")]) == command.REFUSED
    assert "no config.json" in " ".join(capsys.readouterr().err.split())
