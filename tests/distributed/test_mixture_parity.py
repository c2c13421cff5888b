"""Experts and state spaces: every layout computes what transformers computes, and gives back the weights bit by bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from tests.distributed.test_hf_parity import read_tensors
from tests.support.hf_models import MIXTURES, make_documents, pipeline_logits, reference_logits, write_hf_model

DOCUMENTS = (41, 3, 16, 1, 70, 5)
# Of two ranks; and of four what `make matrix` tries beside them.
FEW = {"pp2": {"pp": 2}, "tp2 ep2": {"tp": 2, "sp": True, "ep": 2}}
MANY = {
    "one": {"dp": 4},
    "tp2": {"tp": 2, "dp": 2, "sp": True},
    "pp2 uneven": {"pp": 2, "dp": 2, "last": 2},
    "ep2": {"dp": 4, "ep": 2},
    "ep4": {"dp": 4, "ep": 4},
    "tp2 ep2 etp2": {"tp": 2, "dp": 2, "sp": True, "ep": 2, "etp": 2},
    "pp2 tp2": {"pp": 2, "tp": 2, "sp": True},
    "pp2 tp2 ep2": {"pp": 2, "tp": 2, "sp": True, "ep": 2},
    "pp2 ep2": {"pp": 2, "dp": 2, "ep": 2},
    "pp2 vpp3 ep2": {"pp": 2, "dp": 2, "vpp": 3, "ep": 2},
    "cp2 ep2": {"cp": 2, "dp": 2, "ep": 2},
}


def parallel(tp=1, pp=1, dp=1, sp=False, ep=1, etp=None, cp=1, vpp=1, last=None):
    return ParallelConfig(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vpp,
        num_layers_in_last_pipeline_stage=last,
        context_parallel_size=cp,
        data_parallel_size=dp,
        sequence_parallel=sp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp,
    )


def fitting(name, dtype, layouts):
    """Return the layouts that a model can have, and is tried in."""
    if dtype == "bf16":
        return [layout for layout in layouts if layout in ("tp2 ep2", "pp2 tp2 ep2") and "dense" not in name]
    refused = {"nemotron_h_dense": ("ep", "cp", "vpp"), "nemotron_h": ("cp", "vpp")}.get(name, ())
    return [layout for layout in layouts if not any(axis in layout for axis in refused)]


def run_models(rank, world_size, port, folders, layouts, scratch):
    """Return {(model, dtype, layout): logits} from whichever rank has them, and write exports under `scratch`."""
    from nemo_cascade.models.hf_config import read_architecture
    from nemo_cascade.models.megatron.build import build_model
    from nemo_cascade.models.weights import load_weights, save_hf
    from nemo_cascade.training import runtime

    place = {"rank": rank, "world_size": world_size, "master_addr": "127.0.0.1", "master_port": port}
    results = {}
    job = runtime.start(**place, parallel=parallel(dp=world_size), device="cpu", threads=1, seed=1)
    for layout, sizes in layouts.items():
        job.rebuild(parallel(**sizes), seed=1)
        for (name, dtype), folder in folders.items():
            if layout not in fitting(name, dtype, layouts):
                continue
            arch = read_architecture(Path(folder))
            chunks = build_model(
                arch,
                model=ModelConfig(name=name),
                parallel=parallel(**sizes),
                precision=PrecisionConfig(dtype=dtype),
                seq_length=512,
                axes=job.axes,
            )
            load_weights(chunks, arch, Path(folder), job.axes)
            logits = pipeline_logits(chunks, make_documents(DOCUMENTS, 501))
            if logits is not None and job.axes["tp"].first and job.axes["dp"].first:
                results[name, dtype, layout] = logits[:, : arch.vocab_size].float().numpy()
            save_hf(chunks, arch, job.axes, Path(folder), Path(scratch) / f"{name} {dtype} {layout}")
    job.stop()
    return results


@pytest.fixture(scope="module", params=["few", pytest.param("many", marks=pytest.mark.long)])
def outcome(request, tmp_path_factory):
    from nemo_cascade.training.launch import run_ranks

    layouts, world = (FEW, 2) if request.param == "few" else (MANY, 4)
    scratch = tmp_path_factory.mktemp("mixtures")
    folders = {
        (name, dtype): str(write_hf_model(scratch / f"{name} {dtype}", name, kind))
        for name in MIXTURES
        for dtype, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        if fitting(name, dtype, layouts)
    }
    answers = run_ranks(run_models, world, folders, layouts, str(scratch), deadline_s=600)
    return scratch, folders, layouts, {key: value for answer in answers for key, value in answer.items()}


@pytest.mark.distributed
@pytest.mark.parametrize("name", MIXTURES)
def test_every_layout_computes_transformers_logits(outcome, name):
    _, folders, layouts, logits = outcome
    expected = reference_logits(folders[name, "fp32"], make_documents(DOCUMENTS, 501))
    scale = np.abs(expected).max()
    tried = fitting(name, "fp32", layouts)
    found = {layout: np.abs(logits[name, "fp32", layout] - expected).max() / scale for layout in tried}
    print(name, found)
    assert max(found.values()) < 5e-6, found


@pytest.mark.distributed
@pytest.mark.parametrize("name", MIXTURES)
def test_weights_come_back_bit_identical_from_every_layout(outcome, name):
    scratch, folders, layouts, _ = outcome
    for dtype in (dtype for known, dtype in folders if known == name):
        source = read_tensors(Path(folders[name, dtype]))
        for layout in fitting(name, dtype, layouts):
            exported = read_tensors(scratch / f"{name} {dtype} {layout}")
            assert exported.keys() == source.keys()
            for tensor_name, tensor in source.items():
                assert torch.equal(exported[tensor_name].to(tensor.dtype), tensor), (layout, tensor_name)
                kept = tensor_name.endswith(("A_log", "e_score_correction_bias"))
                assert exported[tensor_name].dtype == (torch.float32 if kept else tensor.dtype)
