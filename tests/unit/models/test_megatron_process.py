"""What needs Megatron-Core in the process: its redirection is global, so all of it runs in one process of its own."""

import pytest
import torch

from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.errors import ConfigError, ModelError, RuntimeUnavailableError
from tests.support.hf_models import ARCHITECTURES, write_hf_model
from tests.unit.models.test_architectures import SIZES

MODEL, FP32 = ModelConfig(name="tiny"), PrecisionConfig(dtype="fp32")


def refusal(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (ConfigError, ModelError, RuntimeUnavailableError) as error:
        return type(error).__name__, str(error)
    return None


def run_checks(rank, world_size, port, folder, hybrid_folder):
    from nemo_cascade.training import runtime

    def start(**changes):
        arguments = {"parallel": ParallelConfig(), "device": "cpu", "threads": 1, "seed": 3} | changes
        return runtime.start(rank=0, world_size=1, master_addr="127.0.0.1", master_port=port, **arguments)

    results = {
        "gpu asked for": refusal(start, device="gpu"),
        "layout of two": refusal(start, parallel=ParallelConfig(tensor_model_parallel_size=2)),
    }
    job = start()
    places = {name: (axis.rank, axis.size, axis.ranks) for name, axis in job.axes.items()}
    results["place"] = (places, job.axes["pp"].first, job.reports)
    results["rebuild for two"] = refusal(job.rebuild, ParallelConfig(data_parallel_size=2), 1)
    results["random"] = [seeded(job, 5), seeded(job, 5), seeded(job, 6)]
    results |= build_checks(folder, job.axes)
    results["recomputed"] = recomputations(folder, job.axes, ("none", "selective", "full"))
    results["recomputed hybrid"] = recomputations(hybrid_folder, job.axes, ("none", "full"))
    results |= {f"mbridge {name}": compare_with_mbridge(name) for name in ("qwen3_untied", "qwen2")}
    job.stop()
    job.stop()
    results["dry run"] = dry_run_of_8b()
    results["after the dry run"] = str(torch.zeros(1, device="cuda").device)
    return results


def seeded(job, seed):
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    job.rebuild(job.parallel, seed)
    with get_cuda_rng_tracker().fork():
        inside = torch.rand(3, device="cuda").tolist()
    return inside, torch.rand(3).tolist()


def build_checks(folder, axes):
    from nemo_cascade.models.hf_config import architecture_from_hf, read_architecture
    from nemo_cascade.models.megatron.build import build_model
    from nemo_cascade.models.weights import export_weights, load_weights

    arch = read_architecture(folder)
    other = architecture_from_hf(ARCHITECTURES["qwen2"])

    def build(arch=arch, **changes):
        arguments = {"model": MODEL, "parallel": ParallelConfig(), "precision": FP32, "seq_length": 512} | changes
        return build_model(arch, axes=axes, **arguments)

    chunks = build()
    model = chunks[0]
    unfilled = all(bool(torch.isnan(p).any()) for n, p in model.named_parameters() if "norm" not in n)
    load_weights(chunks, arch, folder, axes)
    return {
        "NaN before the load only": (unfilled, any(bool(torch.isnan(p).any()) for p in model.parameters())),
        "padding rows": model.embedding.word_embeddings.weight[arch.vocab_size :].abs().sum().item(),
        "too long": refusal(build, seq_length=513),
        "engine": refusal(build, model=ModelConfig(name="tiny", layer_spec="transformer_engine")),
        "fp8": refusal(build, precision=PrecisionConfig(fp8="hybrid")),
        "foreign folder": refusal(load_weights, build(other), other, folder, axes),
        "foreign model": refusal(load_weights, build(other), arch, folder, axes),
        "exported": [(name, list(tensor.shape)) for name, tensor in export_weights(chunks, arch, axes)],
    }


def recomputations(folder, axes, ways):
    """Return the gradients of two micro-batches in flight at once, and the bytes kept for them, for each way."""
    import numpy as np

    from nemo_cascade.models.hf_config import read_architecture
    from nemo_cascade.models.megatron.build import build_model, packed_sequences
    from nemo_cascade.models.megatron.heads import deferred_weight
    from nemo_cascade.models.weights import load_weights

    arch = read_architecture(folder)
    found = {}
    for way in ways:
        parallel = ParallelConfig(recompute=way)
        chunks = build_model(arch, model=MODEL, parallel=parallel, precision=FP32, seq_length=512, axes=axes)
        load_weights(chunks, arch, folder, axes)
        model, kept, losses = chunks[0], [], []

        def keep(tensor, kept=kept):
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            for boundaries in ([0, 30, 40], [0, 7, 19, 40]):
                ids = torch.arange(40)[None] * len(boundaries)
                last = model(ids, ids, None, packed_seq_params=packed_sequences(np.array(boundaries)))
                losses.append((last @ deferred_weight(model).t()).square().mean())
            in_flight = sum(kept)
        sum(losses).backward()
        found[way] = [None if p.grad is None else p.grad.numpy() for p in model.parameters()], in_flight
    return found


def compare_with_mbridge(name):
    """Return how many kinds of parameters mbridge names and cuts as the rules do (Transformer Engine's names)."""
    from mbridge import AutoBridge
    from transformers import AutoConfig

    from nemo_cascade.models.cuts import Columns, HeadColumns, Vocab
    from nemo_cascade.models.hf_config import architecture_from_hf
    from nemo_cascade.models.rules import rules_by_name

    fields = dict(ARCHITECTURES[name])
    arch = architecture_from_hf(fields)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    bridge = AutoBridge.from_config(config, dtype=torch.float32)
    compared = 0
    for megatron, rule in rules_by_name(arch).items():
        outside = "layers." not in megatron
        if megatron != rule.megatron[-1] or not (outside or "layers.4." in megatron):
            continue
        assert list(rule.hf) == list(bridge._weight_name_mapping_mcore_to_hf(megatron))
        if isinstance(rule.cut, Vocab):
            continue  # mbridge leaves padding to its caller
        tensors = [torch.randn(shape) for shape in rule.hf.values()]
        whole = bridge._weight_to_mcore_format(megatron, tensors)
        for size in (1, 2, 6):
            shape = list(whole.shape)
            if rule.cut.axis is not None:
                shape[1 if isinstance(rule.cut, Columns | HeadColumns) else 0] //= size
            assert rule.cut.hf_shape(tuple(shape), size) == list(rule.hf.values())
            theirs = bridge._weight_split_across_tp(megatron, whole, torch.empty(shape), size)
            for rank in range(size):
                mine = rule.cut.take([Part(t) for t in tensors], tuple(shape), rank, size)
                assert torch.equal(mine, theirs[rank]), (megatron, size, rank)
        compared += 1
    return compared


class Part:
    """A tensor with the face of a safetensors slice."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __getitem__(self, index):
        return self.tensor[index]

    def get_shape(self):
        return list(self.tensor.shape)


def dry_run_of_8b():
    """Return the parameters of Qwen3-8B summed over the ranks of one replica, TP 4 x PP 2 of 512."""
    import numpy as np

    from nemo_cascade.models.hf_config import architecture_from_hf
    from nemo_cascade.models.megatron.build import build_model, packed_sequences
    from tests.support.meta_rank import meta_rank

    arch = architecture_from_hf(SIZES | {"model_type": "qwen3", "head_dim": 128})
    parallel = ParallelConfig(
        tensor_model_parallel_size=4, pipeline_model_parallel_size=2, data_parallel_size=64, sequence_parallel=True
    )
    total, devices = 0, set()
    for rank in (0, 1, 2, 3, 256, 257, 258, 259):
        with meta_rank(rank, parallel) as job:
            [model] = build_model(
                arch,
                model=MODEL,
                parallel=parallel,
                precision=PrecisionConfig(),
                seq_length=8192,
                axes=job.axes,
            )
            for parameter in model.parameters():
                devices.add(parameter.device.type)
                if job.axes["tp"].first or getattr(parameter, "tensor_model_parallel", False):
                    total += parameter.numel()
            if rank == 0:
                ids, boundaries = torch.zeros(1, 8192, dtype=torch.long), np.array([0, 4096, 8192])
                model(ids, ids, None, packed_seq_params=packed_sequences(boundaries)).float().sum().backward()
    return total, devices


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    from nemo_cascade.training.launch import run_ranks

    root = tmp_path_factory.mktemp("process")
    folders = write_hf_model(root / "model", "qwen3_tied"), write_hf_model(root / "hybrid", "nemotron_h")
    return run_ranks(run_checks, 1, *folders, deadline_s=120)[0]


def test_runtime_refuses_what_it_can_not_give(results):
    assert results["gpu asked for"][0] == "RuntimeUnavailableError"
    assert results["layout of two"] == ("ConfigError", results["layout of two"][1])
    assert "is 2 ranks, but there are 1" in results["layout of two"][1]
    assert "is 2 ranks, but there are 1" in results["rebuild for two"][1]


def test_runtime_knows_its_place(results):
    places, *rest = results["place"]
    assert places == dict.fromkeys(("tp", "pp", "cp", "dp", "dp_cp", "ep", "etp", "edp", "stage"), (0, 1, (0,)))
    assert rest == [True, True]


def test_a_rebuild_with_the_same_seed_draws_the_same_numbers(results):
    first, again, other = results["random"]
    assert first == again
    assert first != other


def test_a_model_is_unusable_until_its_weights_are_loaded(results):
    assert results["NaN before the load only"] == (True, False)
    assert results["padding rows"] == 0.0


def test_impossible_models_are_refused(results):
    assert "seq_length 513 exceeds max_position_embeddings 512" in results["too long"][1]
    assert results["engine"][0] == "RuntimeUnavailableError"
    assert "fp8=hybrid needs" in results["fp8"][1]
    assert "q_proj.bias" in results["foreign folder"][1]
    assert results["foreign model"][0] == "ModelError"


def test_a_tied_tensor_is_exported_once(results):
    from nemo_cascade.models.hf_config import architecture_from_hf
    from nemo_cascade.models.rules import hf_shapes

    expected = {
        name: list(shape) for name, shape in hf_shapes(architecture_from_hf(ARCHITECTURES["qwen3_tied"])).items()
    }
    assert len(results["exported"]) == len(expected)
    assert dict(results["exported"]) == expected


def equal(ours, theirs):
    return all((a is None) == (b is None) and (a is None or (a == b).all()) for a, b in zip(ours, theirs, strict=True))


def test_recomputation_changes_no_gradient(results):
    for found in (results["recomputed"], results["recomputed hybrid"]):
        (own, kept), (again, kept_again) = found["none"], found["full"]
        assert equal(own, again)
        assert kept_again < kept / 3
    assert equal(results["recomputed"]["none"][0], results["recomputed"]["selective"][0])


@pytest.mark.parametrize("name", ["qwen3_untied", "qwen2"])
def test_names_and_cuts_are_mbridges(results, name):
    assert results[f"mbridge {name}"] == {"qwen3_untied": 9, "qwen2": 8}[name]


def test_dry_run_counts_every_parameter_of_8b_and_leaves_no_trace(results):
    layers, hidden, ffn, vocabulary = 36, 4096, 12288, 152064  # padded to a multiple of 128 x TP 4
    layer = hidden * (32 + 2 * 8) * 128 + 32 * 128 * hidden + 3 * hidden * ffn + 2 * hidden + 2 * 128
    assert results["dry run"] == (2 * vocabulary * hidden + layers * layer + hidden, {"meta"})
    assert results["after the dry run"] == "cpu"
