"""Which models and layouts can share a prompt: the others are refused before anything starts, every reason at once."""

import json

import pytest

from nemo_cascade.cli.preflight import preflight
from nemo_cascade.errors import ConfigError
from tests.support.hf_models import ARCHITECTURES, MIXTURES

REASONS = {
    "cut": "context_parallel_size 2 cuts",
    "fused": "Transformer Engine attends",
    "states": "a state space runs on",
    "experts": "experts are balanced",
}


def told(*overrides):
    """Return what the pre-flight check of a cascade on pairs refuses about sharing, by stage."""
    try:
        preflight(["cascade=smol_preference", *overrides], None, fresh_folder=True, elsewhere=True)
    except ConfigError as refused:
        found = [text for text in refused.violations if "can't share a prompt" in text]
        assert all("share_prompts=false" in text for text in found)
        return {
            stage: {name for name, words in REASONS.items() for text in found if words in text and f".{stage}." in text}
            for stage in ("reward_model", "dpo", "rpo")
        }
    return {}


@pytest.mark.parametrize(
    ("overrides", "reasons"),
    [
        ([], set()),
        (["parallel.context_parallel_size=2"], {"cut"}),
        (["cluster.device=gpu", "precision=bf16", "parallel.context_parallel_size=2"], {"cut", "fused"}),
        (["cluster.device=gpu", "precision=bf16", "model.layer_spec=local"], set()),
    ],
)
def test_a_layout_that_cannot_share_is_refused_with_every_reason_in_every_stage(overrides, reasons):
    found = told(*overrides)
    assert found == dict.fromkeys(("reward_model", "dpo", "rpo"), reasons) or not (found or reasons)


@pytest.mark.parametrize(("model", "reasons"), [("qwen3_moe", {"experts"}), ("nemotron_h", {"states", "experts"})])
def test_a_model_that_cannot_share_is_refused_with_every_reason(tmp_path, model, reasons):
    (tmp_path / "config.json").write_text(json.dumps((ARCHITECTURES | MIXTURES)[model]))
    found = told("model.source=hf", f"model.path={tmp_path}", "~model.architecture")
    assert found == dict.fromkeys(("reward_model", "dpo", "rpo"), reasons)
