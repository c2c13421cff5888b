"""Every layout computes what transformers computes, and gives back the weights bit by bit."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from tests.support.hf_models import (
    ARCHITECTURES,
    PHI3,
    make_documents,
    pipeline_logits,
    reference_logits,
    write_hf_model,
)

pytestmark = pytest.mark.timeout(900)

WORLD = 6
# Each code path once: one process; tensor and pipeline in parts; uneven pipeline and context; sequence and context; a
# key/value head per rank.
TINY_LAYOUTS = {
    "tp1": {"dp": 6},
    "pp3 in 2 parts tp2": {"pp": 3, "vpp": 2, "tp": 2},
    "pp2 of 5 and 1 cp3": {"pp": 2, "last": 1, "cp": 3},
    "tp2 cp3 sp": {"tp": 2, "cp": 3, "sp": True},
    "tp6": {"tp": 6},
}
# How a layout deals out has little to do with the family: one is tried in all of them, the others in these.
FEW = ("pp3 in 2 parts tp2",)
WHOLE = ("qwen3_tied", "nemotron")
# By the number of ranks, what `make matrix` tries beside them.
FURTHER_LAYOUTS = {
    6: {
        "tp2": {"tp": 2, "dp": 3},
        "tp3": {"tp": 3, "dp": 2},
        "pp2": {"pp": 2, "dp": 3},
        "pp2 in 3 parts": {"pp": 2, "vpp": 3, "dp": 3},
        "pp3 tp2": {"pp": 3, "tp": 2},
        "pp2 tp3 sp": {"pp": 2, "tp": 3, "sp": True},
        "pp6": {"pp": 6},
        "cp2": {"cp": 2, "dp": 3},
        "cp6": {"cp": 6},
    },
    8: {
        "tp2 pp2 cp2": {"tp": 2, "pp": 2, "cp": 2},
        "tp2 pp2 in 3 parts cp2 sp": {"tp": 2, "pp": 2, "vpp": 3, "cp": 2, "sp": True},
    },
}
# 9 query and 3 key/value heads: TP 2 needs a padding group, TP 3 none. Of four ranks, for TP 2 x PP 2.
SMOLLM2_LAYOUTS = {
    "tp1": {"dp": 4},
    "tp2": {"tp": 2, "dp": 2},
    "pp2": {"pp": 2, "dp": 2},
    "pp2 tp2": {"pp": 2, "tp": 2},
}
SMOLLM2_LAYOUTS_OF_SIX = {"pp2 tp3": {"pp": 2, "tp": 3}}


@dataclass(frozen=True)
class Case:
    name: str
    folder: str
    layouts: dict
    documents: list
    dtype: str = "fp32"
    export_in: tuple = ()


def parallel(tp=1, pp=1, dp=1, sp=False, vpp=1, last=None, cp=1):
    return ParallelConfig(
        virtual_pipeline_model_parallel_size=vpp,
        num_layers_in_last_pipeline_stage=last,
        context_parallel_size=cp,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        data_parallel_size=dp,
        sequence_parallel=sp,
        pad_attention_groups=True,
    )


def run_cases(rank, world_size, port, cases, scratch):
    """Return {(case, layout): logits} from whichever rank has them, and write exports under `scratch`."""
    from nemo_cascade.models.hf_config import read_architecture
    from nemo_cascade.models.megatron.build import build_model
    from nemo_cascade.models.weights import load_weights, save_hf
    from nemo_cascade.training import runtime

    results, job = {}, None
    for layout_name, layout in _layouts(cases):
        if job is None:
            job = runtime.start(
                rank=rank,
                world_size=world_size,
                master_addr="127.0.0.1",
                master_port=port,
                parallel=parallel(**layout),
                device="cpu",
                threads=1,
                seed=1,
            )
        job.rebuild(parallel(**layout), seed=1)
        for case in cases:
            if layout_name not in case.layouts:
                continue
            replica = job.axes["dp"].rank
            if replica != 0 and layout_name not in case.export_in:
                continue  # nothing that follows involves another replica
            arch = read_architecture(Path(case.folder), PHI3)
            chunks = build_model(
                arch,
                model=ModelConfig(name=case.name),
                parallel=parallel(**layout),
                precision=PrecisionConfig(dtype=case.dtype),
                seq_length=512,
                axes=job.axes,
            )
            if replica == 0:
                load_weights(chunks, arch, Path(case.folder), job.axes)
                logits = pipeline_logits(chunks, case.documents)
                if logits is not None and job.axes["tp"].first and job.axes["cp"].first:
                    assert logits.shape[1] % (128 * job.parallel.tensor_model_parallel_size) == 0
                    results[case.name, layout_name] = logits[:, : arch.vocab_size].float().numpy()
            if layout_name in case.export_in:
                save_hf(chunks, arch, job.axes, Path(case.folder), Path(scratch) / f"{case.name} {layout_name}")
    job.stop()
    return results


def _layouts(cases):
    return {name: layout for case in cases for name, layout in case.layouts.items()}.items()


def tiny_cases(scratch, layouts, dtype="fp32"):
    """Return a case of each family.

    Args:
        scratch: models are written below it.
        layouts: of a family, by its name.
        dtype: of the models in files and processes.
    """
    stored = torch.bfloat16 if dtype == "bf16" else torch.float32
    return [
        Case(
            name,
            str(write_hf_model(scratch / name, name, stored)),
            layouts(name),
            make_documents((41, 3, 16, 1, 30, 5), 501),
            dtype,
            export_in=tuple(layouts(name)),
        )
        for name in ARCHITECTURES
    ]


def short_layouts(name):
    """Return the layouts that `make test` tries a family in; with padding groups, also that of a head per rank."""
    few = (*FEW, "tp6") if "three" in name else FEW
    return {layout: sizes for layout, sizes in TINY_LAYOUTS.items() if name in WHOLE or layout in few}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, smollm2_folder):
    from nemo_cascade.training.launch import run_ranks

    scratch = tmp_path_factory.mktemp("parity")
    cases = tiny_cases(scratch, short_layouts)
    for dtype in ("fp32", "bf16"):
        folder = scratch / f"stored in bf16, trained in {dtype}"
        write_hf_model(folder, "qwen3_tied", torch.bfloat16)
        layouts = {"pp3 in 2 parts tp2": TINY_LAYOUTS["pp3 in 2 parts tp2"]}
        cases.append(
            Case(folder.name, str(folder), layouts, make_documents((9, 9), 501), dtype, export_in=tuple(layouts))
        )
    documents = make_documents((48, 7), 49152)
    cases.append(Case("smollm2 tp3", str(smollm2_folder), SMOLLM2_LAYOUTS_OF_SIX, documents, export_in=("pp2 tp3",)))
    smollm2 = Case("smollm2", str(smollm2_folder), SMOLLM2_LAYOUTS, documents, export_in=("pp2 tp2",))
    answers = run_ranks(run_cases, WORLD, cases, str(scratch), deadline_s=560)
    answers += run_ranks(run_cases, 4, [smollm2], str(scratch), deadline_s=560)
    logits = {key: value for answer in answers for key, value in answer.items()}
    return scratch, {case.name: case for case in [*cases, smollm2]}, logits


@pytest.mark.distributed
@pytest.mark.parametrize("name", [*ARCHITECTURES, "smollm2", "smollm2 tp3"])
def test_every_layout_computes_transformers_logits(outcome, name):
    _, cases, logits = outcome
    computes_transformers_logits(cases[name], logits, 2e-5 if name.startswith("smollm2") else 2e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("name", [*ARCHITECTURES, "smollm2", "smollm2 tp3"])
def test_weights_come_back_bit_identical_from_every_layout(outcome, name):
    scratch, cases, _ = outcome
    weights_come_back(cases[name], scratch)


@pytest.mark.long
@pytest.mark.distributed
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", FURTHER_LAYOUTS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_further_layout_does_so_too(tmp_path, world, dtype):
    from nemo_cascade.training.launch import run_ranks

    layouts = FURTHER_LAYOUTS[world] | (TINY_LAYOUTS if world == WORLD else {})
    cases = tiny_cases(tmp_path, lambda _: layouts, dtype)
    answers = run_ranks(run_cases, world, cases, str(tmp_path), deadline_s=3000)
    logits = {key: value for answer in answers for key, value in answer.items()}
    for case in cases:
        if dtype == "fp32":
            computes_transformers_logits(case, logits, 2e-6)
        weights_come_back(case, tmp_path)


def computes_transformers_logits(case, logits, limit):
    expected = reference_logits(case.folder, case.documents)
    scale = np.abs(expected).max()
    assert {layout for key, layout in logits if key == case.name} == set(case.layouts)
    for layout in case.layouts:
        error = np.abs(logits[case.name, layout] - expected).max() / scale
        assert error < limit, (layout, error)


def weights_come_back(case, scratch):
    source = read_tensors(Path(case.folder))
    for layout in case.export_in:
        exported = read_tensors(scratch / f"{case.name} {layout}")
        assert exported.keys() == source.keys()
        for tensor_name, tensor in source.items():
            assert exported[tensor_name].dtype == tensor.dtype
            assert torch.equal(exported[tensor_name], tensor), (layout, tensor_name)


@pytest.mark.distributed
def test_exported_dtype_is_the_source_files_unless_that_would_lose_bits(outcome):
    scratch, cases, _ = outcome
    for trained_in, stored_in in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        name = f"stored in bf16, trained in {trained_in}"
        target = scratch / f"{name} pp3 in 2 parts tp2"
        source, exported = read_tensors(Path(cases[name].folder)), read_tensors(target)
        assert {tensor.dtype for tensor in exported.values()} == {stored_in}
        assert all(torch.equal(exported[key].to(torch.bfloat16), tensor) for key, tensor in source.items())
        assert json.loads((target / "config.json").read_text())["dtype"] == str(stored_in).removeprefix("torch.")


def read_tensors(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
