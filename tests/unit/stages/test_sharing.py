"""Which models and layouts can share a prompt: the others are refused before anything starts, every reason at once."""

import json

import pytest

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import ConfigError
from nemo_cascade.stages.roles import check_sharing
from tests.support.hf_models import ARCHITECTURES, MIXTURES

KEY = "stages.dpo.share_prompts"


@pytest.mark.parametrize(
    ("model", "overrides", "layout", "reasons"),
    [
        ("qwen3_tied", [], {}, []),
        ("qwen3_tied", [], {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}, []),
        ("qwen3_tied", [], {"context_parallel_size": 2}, ["context_parallel_size 2"]),
        ("qwen3_tied", ["cluster.device=gpu", "precision=bf16"], {}, ["Transformer Engine"]),
        ("qwen3_tied", ["cluster.device=gpu", "precision=bf16", "model.layer_spec=local"], {}, []),
        ("qwen3_moe", [], {}, ["experts"]),
        ("nemotron_h", [], {"context_parallel_size": 2}, ["context_parallel_size 2", "a state space", "experts"]),
    ],
)
def test_what_cannot_share_is_refused_with_every_reason(tmp_path, model, overrides, layout, reasons):
    config, _ = compose(["cascade=smol_preference", *overrides])
    (tmp_path / "config.json").write_text(json.dumps((ARCHITECTURES | MIXTURES)[model]))
    if not reasons:
        return check_sharing(config, KEY, ParallelConfig(**layout), tmp_path)
    with pytest.raises(ConfigError) as refused:
        check_sharing(config, KEY, ParallelConfig(**layout), tmp_path)
    assert len(refused.value.violations) == len(reasons)
    for reason, told in zip(reasons, refused.value.violations, strict=True):
        assert reason in told
        assert f"{KEY}=false" in told


def test_a_layout_that_cuts_documents_is_refused_before_there_is_a_model():
    config, _ = compose(["cascade=smol_preference", "parallel.context_parallel_size=2"])
    told = [str(p) for name, stage in config.stages.items() for p in stage.problems(config, name)]
    found = [text for text in told if "can't share a prompt" in text]
    assert [text.split(".")[1] for text in found] == ["reward_model", "dpo", "rpo"]
