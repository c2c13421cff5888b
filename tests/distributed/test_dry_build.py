"""Published models in layouts of their size, every distinct rank built on the meta device; `make matrix` runs it."""

import pytest
import torch

from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig

pytestmark = [pytest.mark.long, pytest.mark.distributed, pytest.mark.timeout(3600)]

MODELS = {
    "8B TP8": (
        {
            "model_type": "qwen3",
            "num_hidden_layers": 36,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
        },
        {"tensor_model_parallel_size": 8, "data_parallel_size": 8},
        8_190_735_360,
    ),
    "8B TP4 PP3 in 3 parts CP2": (
        {},
        {
            "tensor_model_parallel_size": 4,
            "pipeline_model_parallel_size": 3,
            "virtual_pipeline_model_parallel_size": 3,
            "context_parallel_size": 2,
        },
        8_190_735_360,
    ),
    # Nemotron-4 340B (arXiv 2406.11704, table 1; the counts follow from the shapes).
    "340B TP8 PP12": (
        {
            "model_type": "nemotron",
            "num_hidden_layers": 96,
            "hidden_size": 18432,
            "intermediate_size": 73728,
            "num_attention_heads": 96,
            "num_key_value_heads": 8,
            "head_dim": 192,
            "vocab_size": 256000,
            "max_position_embeddings": 4096,
            "partial_rotary_factor": 0.5,
            "tie_word_embeddings": False,
        },
        {"tensor_model_parallel_size": 8, "pipeline_model_parallel_size": 12},
        341_029_195_776,
    ),
}


def build_all(rank, world_size, port, fields, sizes):
    """Return {HF tensor: shape} as the shards of all ranks stand for it, and what the model lacks or has too much."""
    from nemo_cascade.models.hf_config import architecture_from_hf
    from nemo_cascade.models.megatron.build import build_model
    from nemo_cascade.models.rules import hf_shapes
    from nemo_cascade.models.weights import mapped_parameters
    from tests.support.meta_rank import meta_rank

    arch, parallel = architecture_from_hf(fields), ParallelConfig(**sizes, sequence_parallel=True)
    layout, found, replicas = parallel.layout, {}, parallel.layout.cp * parallel.layout.dp
    for stage in range(layout.pp):
        for tensor in range(layout.tp):
            with meta_rank(stage * layout.tp * replicas + tensor, parallel) as job:
                assert (job.axes["pp"].rank, job.axes["tp"].rank) == (stage, tensor)
                chunks = build_model(
                    arch,
                    model=ModelConfig(name="dry"),
                    parallel=parallel,
                    precision=PrecisionConfig(),
                    seq_length=4096,
                    axes=job.axes,
                )
                for own in mapped_parameters(chunks, arch):
                    assert own.parameter.is_meta
                    assert own.parameter.dtype == torch.bfloat16
                    size = 1 if own.rule.cut.axis is None else layout.tp
                    shapes = own.rule.cut.hf_shape(own.shape, size)
                    for name, shape in zip(own.rule.hf, shapes, strict=True):
                        assert found.setdefault(name, (shape, set()))[0] == shape
                        found[name][1].add(tensor)
    assert all(len(ranks) == layout.tp for _, ranks in found.values())
    return {name: shape for name, (shape, _) in found.items()}, hf_shapes(arch)


@pytest.mark.parametrize("name", MODELS)
def test_every_rank_builds_and_all_together_hold_every_tensor_of_the_model(name):
    from nemo_cascade.training.launch import run_ranks

    fields, sizes, parameters = MODELS[name]
    found, expected = run_ranks(build_all, 1, fields or MODELS["8B TP8"][0], sizes, deadline_s=3000)[0]
    assert found == expected
    assert sum(torch.Size(shape).numel() for shape in found.values()) == parameters
