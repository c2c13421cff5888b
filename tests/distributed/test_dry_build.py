"""Published models in layouts of their size, every distinct rank built on the meta device; `make matrix` runs it."""

import pytest
import torch

from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from tests.unit.models.test_architectures import SIZES
from tests.unit.models.test_nemotron import NEMOTRON4

pytestmark = [pytest.mark.long, pytest.mark.distributed, pytest.mark.timeout(3600)]

QWEN3_8B = SIZES | {"model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 32768}
MODELS = {
    "8B TP8": (QWEN3_8B, {"tensor_model_parallel_size": 8, "data_parallel_size": 8}, 8_190_735_360),
    "8B TP4 PP3 in 3 parts CP2": (
        QWEN3_8B,
        {
            "tensor_model_parallel_size": 4,
            "pipeline_model_parallel_size": 3,
            "virtual_pipeline_model_parallel_size": 3,
            "context_parallel_size": 2,
        },
        8_190_735_360,
    ),
    # The count follows from the shapes.
    "340B TP8 PP12": (
        NEMOTRON4 | {"partial_rotary_factor": 0.5, "tie_word_embeddings": False},
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
    found, expected = run_ranks(build_all, 1, fields, sizes, deadline_s=3000)[0]
    assert found == expected
    assert sum(torch.Size(shape).numel() for shape in found.values()) == parameters
