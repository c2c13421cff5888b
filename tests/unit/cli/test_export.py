"""A stage's model leaves the run folder with a card that says where it comes from."""

import json

import pytest
import yaml

from nemo_cascade.cli import main as command
from nemo_cascade.config.reading.provenance import config_hash, read_config
from tests.unit.cascade.conftest import config, finished_folder, run_folder

__all__ = ["config", "finished_folder", "run_folder"]


@pytest.fixture
def with_weights(run_folder):
    hf = run_folder.stage(2, "math_rl") / "hf"
    hf.mkdir()
    (hf / "config.json").write_text("{}")
    (hf / "model.safetensors").write_bytes(b"weights")
    return run_folder


def test_the_folder_has_the_weights_and_a_card_with_recipe_scores_data_and_lineage(with_weights, tmp_path):
    target = tmp_path / "out"
    names = ["--license", "apache-2.0", "--base", "owner/base"]
    assert command.main(["export", str(with_weights.path), str(target), "--stage", "math_rl", *names]) == 0
    assert (target / "model.safetensors").read_bytes() == b"weights"
    _, front, text = (target / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert (said["license"], said["base_model"]) == ("apache-2.0", "owner/base")
    score = json.loads((with_weights.stage(2, "math_rl") / "scores.json").read_text())["summary"]["math"]
    row = f"| math | {score['score']:.3f} | {score['score'] - 1.96 * score['stderr']:.3f} to "
    assert row in text
    for words in ("| math_rl | grpo | sft1 | 40 | 2e-06 | hold |", "`sft.jsonl` | sft1 (sft)",
                  config_hash(read_config(with_weights.path)), "| weights (blake3) |"):  # fmt: skip
        assert words in text


def test_what_can_t_be_exported_is_refused_with_what_can(with_weights, tmp_path, capsys):
    export = ["export", str(with_weights.path), str(tmp_path / "out"), "--stage"]
    assert command.main([*export, "code_rl"]) == command.REFUSED
    assert "allowed: math_rl" in capsys.readouterr().err
    assert command.main([*export, "math_rl", "--step", "7"]) == command.REFUSED
    assert "none kept" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
