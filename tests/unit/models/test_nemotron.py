import pytest

from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import Dense, LayerNorm, Rotary
from nemo_cascade.models.families import family_named
from nemo_cascade.models.hf_config import architecture_from_hf
from nemo_cascade.models.rules import hf_shapes

# 340B (arXiv 2406.11704, table 1).
NEMOTRON4 = {
    "model_type": "nemotron",
    "num_hidden_layers": 96,
    "hidden_size": 18432,
    "intermediate_size": 73728,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 192,
    "vocab_size": 256000,
    "max_position_embeddings": 4096,
    "hidden_act": "relu2",
    "norm_eps": 1e-5,
}


def test_nemotron_4_is_read_written_back_and_counted():
    arch = architecture_from_hf(NEMOTRON4)
    assert arch.norm == LayerNorm(1e-5)
    assert arch.positions == Rotary(10000.0, fraction=0.5)
    assert arch.layers[0].mlp == Dense(73728, "relu2")
    family = family_named("nemotron")
    for fraction in (0.5, 1.0):
        other = architecture_from_hf(NEMOTRON4 | {"partial_rotary_factor": fraction})
        assert other.positions.fraction == fraction
        assert family.read(family.write(other)) == other
    count = 0
    for shape in hf_shapes(arch).values():
        size = 1
        for side in shape:
            size *= side
        count += size
    assert round(count / 1e9, 2) == 341.03


def test_what_nemotron_has_not_is_refused():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    with pytest.raises(ModelError, match=r"hidden_act='silu' \(only relu2\)"):
        architecture_from_hf(NEMOTRON4 | {"hidden_act": "silu"})
    with pytest.raises(ModelError, match="yarn"):
        architecture_from_hf(NEMOTRON4 | {"rope_scaling": yarn})
