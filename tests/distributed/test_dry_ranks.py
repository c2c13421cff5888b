"""Ranks built on meta tensors hold, to the byte, what the planner counts."""

import pytest

pytestmark = pytest.mark.distributed

QWEN3 = {
    "model_type": "qwen3", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 1000,
    "max_position_embeddings": 4096, "rope_theta": 1000000, "rms_norm_eps": 1e-6,
}  # fmt: skip
LAYOUTS = {
    "one": {},
    "tp2_pp2_dp4": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "data_parallel_size": 4},
    "pp2_vpp2_cp2": {
        "pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2, "context_parallel_size": 2,
        "data_parallel_size": 3,
    },
    "unsharded": {"data_parallel_size": 2, "use_distributed_optimizer": False},
}  # fmt: skip


def compare(rank, world_size, port):
    from nemo_cascade.cli.dry_ranks import distinct_ranks
    from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
    from nemo_cascade.models.hf_config import architecture_from_hf
    from nemo_cascade.planner.ranks.parameters import rank_bytes, stage_parameters
    from nemo_cascade.training.dry_rank import dry_rank

    model = ModelConfig(name="tiny", source="random", architecture=QWEN3)
    found = {}
    for tied in (False, True):
        arch = architecture_from_hf({**QWEN3, "tie_word_embeddings": tied})
        for name, sizes in LAYOUTS.items():
            parallel = ParallelConfig(**sizes)
            for dtype in ("bf16", "fp32"):
                for number, stage, replica in distinct_ranks(parallel.layout):
                    built = dry_rank(number, arch, model, parallel, PrecisionConfig(dtype=dtype))
                    chunks = stage_parameters(arch, parallel.layout, stage, model.make_vocab_size_divisible_by)
                    planned = rank_bytes(
                        chunks, parallel.layout, half=dtype == "bf16", sharded=parallel.use_distributed_optimizer,
                        stage=stage, replica=replica,
                    )  # fmt: skip
                    elements = tuple(one.elements for chunk in chunks for one in chunk)
                    found[name, tied, dtype, number] = (
                        (built.elements, built.weights, built.gradients, built.optimizer),
                        (elements, planned.weights, planned.gradients, planned.optimizer),
                    )
    return found


def test_every_distinct_rank_holds_what_is_planned():
    from nemo_cascade.training.launch import run_ranks

    [found] = run_ranks(compare, 1, deadline_s=240)
    assert found
    assert {key: built for key, (built, _) in found.items()} == {key: planned for key, (_, planned) in found.items()}
