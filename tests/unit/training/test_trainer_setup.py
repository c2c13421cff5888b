from dataclasses import replace

import pytest

from nemo_cascade.config.layout import Layout
from nemo_cascade.config.model import PrecisionConfig
from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.errors import ConfigError, RuntimeUnavailableError
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.training.precision import check_precision, token_multiple
from tests.support.tiny_policy import policy_setup


def test_log_probabilities_are_the_policys_at_its_own_temperature_only():
    warm = PolicyLoss(PolicyLossConfig(), temperature=0.6, reference_hf_path="there")
    policy, sft = policy_setup("nowhere", objective=warm), policy_setup("nowhere")
    assert (policy.temperature, policy.reference_hf_path) == (0.6, "there")
    assert (sft.temperature, sft.reference_hf_path) == (1.0, None)
    assert replace(policy, training=None).temperature == 1.0
    with pytest.raises(ConfigError, match=r"temperature 0\.0"):
        PolicyLoss(PolicyLossConfig(), temperature=0.0)


def test_fp8_is_refused_by_what_is_missing():
    fp8 = PrecisionConfig(fp8="hybrid", fp8_recipe="blockwise")
    check_precision(PrecisionConfig(), gpu=False)
    with pytest.raises(RuntimeUnavailableError, match="needs a CUDA GPU"):
        check_precision(fp8, gpu=False)
    with pytest.raises(RuntimeUnavailableError, match=r"Transformer Engine|too old"):
        check_precision(fp8, gpu=True, capability=(8, 0))
    with pytest.raises(ConfigError, match="dtype=bf16"):
        check_precision(PrecisionConfig(dtype="fp32", fp8="e4m3"), gpu=True)


def test_pack_lengths_suit_sequence_parallelism_and_fp8_tiles():
    assert token_multiple(PrecisionConfig(), Layout(tp=8)) == 1
    assert token_multiple(PrecisionConfig(), Layout(tp=8, sp=True)) == 8
    tiles = {"tensorwise": 16, "delayed": 16, "mxfp8": 32, "blockwise": 128}
    for recipe, tile in tiles.items():
        fp8 = PrecisionConfig(fp8="hybrid", fp8_recipe=recipe)
        assert token_multiple(fp8, Layout(tp=4, sp=True)) == 4 * tile
        assert token_multiple(fp8, Layout(tp=4)) == tile
