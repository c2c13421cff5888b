"""HF configs: what is read, and that everything unsupported is refused by name, at once."""

import json
from dataclasses import replace

import pytest

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import Attention, Dense, Layer, Llama3Scaling
from nemo_cascade.models.families import family_named
from nemo_cascade.models.fit import layout_problems, padding_note
from nemo_cascade.models.hf_config import architecture_from_hf, changed_fields, unexpected_fields
from nemo_cascade.models.rules import hf_shapes
from tests.support.hf_models import ARCHITECTURES, MIXTURES, PHI3

SIZES = {
    "num_hidden_layers": 36,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
QWEN3 = SIZES | {"model_type": "qwen3", "head_dim": 128, "architectures": ["Qwen3ForCausalLM"], "rope_theta": 1e6}
LLAMA = SIZES | {"model_type": "llama"}


def test_families_differ_in_norms_biases_and_head_width():
    qwen3 = architecture_from_hf(QWEN3 | {"head_dim": 64})
    qwen2 = architecture_from_hf(SIZES | {"model_type": "qwen2", "tie_word_embeddings": True})
    assert qwen3.kinds == (Layer(Attention(32, 8, 64, qk_norm=True), Dense(12288)),)
    assert qwen2.kinds == (Layer(Attention(32, 8, 128, qkv_bias=True), Dense(12288)),)
    assert (len(qwen3.layers), qwen3.tied, qwen2.tied) == (36, False, True)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_a_family_writes_it_reads_back(name):
    arch = architecture_from_hf(ARCHITECTURES[name], PHI3)
    for one in (arch, arch.with_score_head(), replace(arch, max_position_embeddings=64)):
        written = json.loads(json.dumps(family_named(arch.family).write(one)))
        assert architecture_from_hf(written, PHI3) == one
        changed = changed_fields(one, ARCHITECTURES[name])
        assert architecture_from_hf({**ARCHITECTURES[name], **changed}, PHI3) == one
    assert changed_fields(arch, ARCHITECTURES[name]) == {}
    assert unexpected_fields(arch, ARCHITECTURES[name] | {"num_hidden_layers": 7}) == ["num_hidden_layers 6, not 7"]


def test_layers_that_differ_are_told_apart():
    arch = architecture_from_hf(QWEN3)
    narrow = Layer(Attention(8, 2, 128), Dense(1024))
    mixed = replace(arch, layers=(narrow, *arch.layers[1:]))
    assert mixed.kinds == (narrow, arch.layers[0])
    problems = layout_problems(mixed, ParallelConfig(tensor_model_parallel_size=8))
    assert len(problems) == 1
    assert "needs 6 padding groups" in problems[0]
    shapes = hf_shapes(mixed)
    widths = [shapes[f"model.layers.{number}.mlp.up_proj.weight"] for number in (0, 1)]
    assert widths == [(1024, 4096), (12288, 4096)]


def test_old_and_new_spelling_of_the_rotary_base_mean_the_same():
    new = {key: value for key, value in QWEN3.items() if key != "rope_theta"}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    assert architecture_from_hf(new) == architecture_from_hf(QWEN3)


def test_llama3_scaling_is_read_from_both_spellings():
    fields = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    old = architecture_from_hf(LLAMA | {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **fields}})
    new = architecture_from_hf(LLAMA | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **fields}})
    assert old == new
    assert old.positions.scaling == Llama3Scaling(**fields)


def test_a_window_that_no_layer_uses_is_accepted():
    architecture_from_hf(QWEN3 | {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28})
    architecture_from_hf(QWEN3 | {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 36})


def test_everything_unsupported_is_named_at_once():
    bad = QWEN3 | {
        "architectures": ["Qwen3ForTokenClassification"],
        "hidden_act": "gelu",
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
        "quantization_config": {"bits": 4},
        "some_switch_of_tomorrow": True,
        "num_key_value_heads": 0,
    }
    del bad["vocab_size"]
    with pytest.raises(ModelError) as refused:
        architecture_from_hf(bad)
    for name in (
        "vocab_size is missing",
        "num_key_value_heads must be a positive integer",
        "Qwen3ForTokenClassification",
        "hidden_act='gelu'",
        "attention_bias=True",
        "use_sliding_window",
        "sliding_attention",
        "rope_type 'dynamic' (frequencies that follow the length",
        "quantization_config",
        "some_switch_of_tomorrow",
    ):
        assert name in str(refused.value)


def test_a_reward_model_has_one_output_and_no_tied_embedding():
    reward = QWEN3 | {"architectures": ["Qwen3ForSequenceClassification"], "tie_word_embeddings": True}
    arch = architecture_from_hf(reward | {"id2label": {"0": "reward"}, "label2id": {"reward": 0}})
    assert (arch.scores, arch.tied) == (True, False)
    for labels in ({}, {"id2label": {"0": "a", "1": "b"}}):  # transformers' default is two
        with pytest.raises(ModelError, match="one output"):
            architecture_from_hf(reward | labels)


def test_every_reason_against_a_layout_is_given():
    smollm2 = architecture_from_hf(
        LLAMA | {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576, "num_hidden_layers": 30}
    )
    problems = layout_problems(
        smollm2,
        ParallelConfig(tensor_model_parallel_size=7, pipeline_model_parallel_size=4, expert_model_parallel_size=2),
    )
    assert len(problems) == 4
    for name in (
        "num_key_value_heads 3 (of 9 heads) is not a multiple of tensor_model_parallel_size 7",
        "intermediate_size",
        "30 layers",
        "expert_model_parallel_size 2: the model has no experts",
    ):
        assert any(name in problem for problem in problems)
    assert layout_problems(smollm2, ParallelConfig(tensor_model_parallel_size=3)) == []


def test_groups_are_padded_up_to_twice_as_many_and_the_sizes_that_fit_are_named():
    smollm2 = architecture_from_hf(LLAMA | {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576})
    assert [smollm2.padding_groups(size) for size in (1, 2, 3, 4, 6)] == [0, 1, 0, 1, 3]
    assert padding_note(smollm2, ParallelConfig(tensor_model_parallel_size=3)) is None
    note = padding_note(smollm2, ParallelConfig(tensor_model_parallel_size=2))
    assert "1 zero padding group beside 3 key/value heads" in note
    assert "attention x 1.33" in note
    one = architecture_from_hf(LLAMA | {"num_key_value_heads": 1})
    assert "pad_attention_groups=true" in layout_problems(one, ParallelConfig(tensor_model_parallel_size=2))[0]
    assert layout_problems(one, ParallelConfig(tensor_model_parallel_size=2, pad_attention_groups=True)) == []
    assert layout_problems(one, ParallelConfig(tensor_model_parallel_size=8, pad_attention_groups=True)) == [
        "num_key_value_heads 1 (of 32 heads) is not a multiple of tensor_model_parallel_size 8, which needs 7 padding "
        "groups beside them, at most 1 are made; "
        "sizes that fit: 1, 2"
    ]


@pytest.mark.parametrize(("tensor", "expected"), [(1, 512), (2, 512), (3, 768)])
def test_vocabulary_is_padded_to_a_multiple_per_tensor_rank(tensor, expected):
    arch = architecture_from_hf(QWEN3 | {"vocab_size": 501})
    assert arch.padded_vocab_size(128, tensor) == expected


NEMOTRON_H = MIXTURES["nemotron_h"]


@pytest.mark.parametrize("name", MIXTURES)
def test_a_family_of_experts_or_state_spaces_reads_back_what_it_writes(name):
    arch = architecture_from_hf(MIXTURES[name])
    for one in (arch, arch.with_score_head()):
        written = json.loads(json.dumps(family_named(arch.family).write(one)))
        assert architecture_from_hf(written) == one
    assert changed_fields(arch, MIXTURES[name]) == {}


def test_the_layers_of_nemotron_h_are_read_in_every_spelling():
    arch = architecture_from_hf(NEMOTRON_H)
    assert [type(layer.mixer or layer.mlp).__name__ for layer in arch.layers[:5]] == [
        "Mamba",
        "Experts",
        "Mamba",
        "Attention",
        "Dense",
    ]
    new = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
    old = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
    rest = {key: value for key, value in NEMOTRON_H.items() if key != "hybrid_override_pattern"}
    for names in (new, old):
        listed = [names[letter] for letter in NEMOTRON_H["hybrid_override_pattern"]]
        assert architecture_from_hf(rest | {"layers_block_type": listed}) == arch


REFUSED_HYBRIDS = [
    ({"hybrid_override_pattern": "MEX"}, r"has X \(only M"),
    ({"num_hidden_layers": 7}, "num_hidden_layers 7, but the pattern"),
    ({"layers_block_type": ["mlp"]}, "layers_block_type says -, hybrid_override_pattern"),
    ({"moe_latent_size": 64}, "latent"),
    ({"num_nextn_predict_layers": 1}, "further tokens"),
    ({"layer_norm_epsilon": 1e-6}, "only 1e-5"),
    ({"mlp_hidden_act": "silu"}, "only relu2"),
    ({"n_group": 2}, r"n_group=2 \(only 1\)"),
    ({"num_experts_per_tok": 9}, r"2\.\.8"),
    ({"time_step_limit": [0.0, 1.0]}, "infinity"),
    ({"n_groups": 3}, "8 Mamba heads are not a multiple of 3"),
    ({"use_conv_bias": False}, "only true"),
    ({"tie_word_embeddings": True}, "only false"),
    ({"ssm_state_size": 0}, "ssm_state_size must be a positive integer"),
    ({"rope_scaling": {"factor": 2}}, "unknown field rope_scaling"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED_HYBRIDS)
def test_a_hybrid_that_cannot_be_represented_is_refused_by_the_field(change, words):
    with pytest.raises(ModelError, match=words):
        architecture_from_hf(NEMOTRON_H | change)


def test_layouts_that_cannot_split_experts_or_state_spaces_are_refused_by_what_fits():
    moe, hybrid = architecture_from_hf(MIXTURES["qwen3_moe"]), architecture_from_hf(NEMOTRON_H)
    wide = ParallelConfig(tensor_model_parallel_size=4, data_parallel_size=3, expert_model_parallel_size=3)
    said = "; ".join(layout_problems(hybrid, wide))
    assert "mamba n_groups 2 is not a multiple of tensor_model_parallel_size 4" in said
    assert "8 experts are not a multiple of expert_model_parallel_size 3" in said
    assert "need sequence_parallel=true" in said
    too_many = ParallelConfig(data_parallel_size=2, expert_model_parallel_size=4)
    assert "doesn't divide the 2 ranks" in "; ".join(layout_problems(moe, too_many))
    whole = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True, expert_tensor_parallel_size=1)
    assert "expert_tensor_parallel_size 1 must be tensor_model_parallel_size 2" in layout_problems(moe, whole)[0]
    dense = architecture_from_hf(QWEN3)
    ep = ParallelConfig(data_parallel_size=2, expert_model_parallel_size=2)
    assert layout_problems(dense, ep) == ["expert_model_parallel_size 2: the model has no experts"]
