"""Documents of one pack never see one another: not in the forward pass, not in the backward pass, in no layout."""

from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.models.megatron.packing import padding_pays
from tests.support.hf_models import boundaries, make_documents, pipeline_logits, write_hf_model

LAYOUTS = {
    "tp1": {"data_parallel_size": 2},
    "tp2": {"tensor_model_parallel_size": 2},
    "tp2 sp": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "pp2": {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 3},
    "cp2": {"context_parallel_size": 2},
}
# One pack for each way of computing attention: a call per document, and one padded batch. Even lengths, because
# sequence parallelism deals tokens out to two ranks.
PACKS = {"each": (150, 2, 24, 40), "padded": (12, 10, 12, 12, 12, 8)}
PERTURBED = 2  # the document of which a token is changed


def run_packs(rank, world_size, port, folder, layouts):
    """Return {(layout, pack, what): array} on the ranks that have results."""
    from nemo_cascade.models.hf_config import read_architecture
    from nemo_cascade.models.megatron.build import build_model
    from nemo_cascade.models.weights import load_weights
    from nemo_cascade.training import runtime

    results, job = {}, None
    arch = read_architecture(Path(folder))
    for layout, sizes in layouts.items():
        parallel = ParallelConfig(**sizes)
        if job is None:
            job = runtime.start(
                rank=rank,
                world_size=world_size,
                master_addr="127.0.0.1",
                master_port=port,
                parallel=parallel,
                device="cpu",
                threads=1,
                seed=1,
            )
        job.rebuild(parallel, seed=1)
        chunks = build_model(
            arch,
            model=ModelConfig(name="tiny"),
            parallel=parallel,
            precision=PrecisionConfig(dtype="fp32"),
            seq_length=512,
            axes=job.axes,
        )
        load_weights(chunks, arch, Path(folder), job.axes)
        for pack, lengths in PACKS.items():
            documents = make_documents(lengths, arch.vocab_size)
            changed = [d.copy() for d in documents]
            changed[PERTURBED][len(changed[PERTURBED]) // 2] += 1
            passes = {"packed": documents, "perturbed": changed}
            passes |= {f"alone {i}": [document] for i, document in enumerate(documents)}
            for what, content in passes.items():
                logits = pipeline_logits(chunks, content)
                if logits is not None:
                    results[layout, pack, what] = logits.numpy()
            if layout == "tp1":
                results[layout, pack, "gradient"] = gradient_of_one_document(chunks[0], documents)
    job.stop()
    return results


def gradient_of_one_document(model, documents):
    """Return [tokens]: how much each token's embedding matters to the loss of document PERTURBED."""
    from nemo_cascade.models.megatron.build import packed_sequences

    held = []
    hook = model.embedding.register_forward_hook(lambda *args: held.append(args[2].requires_grad_()))
    ids, cu_seqlens = torch.from_numpy(np.concatenate(documents))[None], boundaries(documents)
    last = model(ids, torch.zeros_like(ids), None, packed_seq_params=packed_sequences(cu_seqlens))[0]
    hook.remove()
    begin, end = cu_seqlens[PERTURBED], cu_seqlens[PERTURBED + 1]
    (gradient,) = torch.autograd.grad(last[begin:end].square().sum(), held)
    return gradient[:, 0].abs().amax(-1).numpy()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    from nemo_cascade.training.launch import run_ranks

    folder = write_hf_model(tmp_path_factory.mktemp("leak") / "model", "qwen3_tied")
    answers = run_ranks(run_packs, 2, str(folder), LAYOUTS, deadline_s=120)
    return {key: value for answer in answers for key, value in answer.items()}


def spans(pack):
    ends = np.cumsum(PACKS[pack])
    return [slice(end - length, end) for end, length in zip(ends, PACKS[pack], strict=True)]


@pytest.mark.parametrize("pack", PACKS)
def test_the_pack_is_computed_in_the_way_it_stands_for(pack):
    assert padding_pays([0, *accumulate(PACKS[pack])]) == (pack == "padded")


@pytest.mark.distributed
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pack", PACKS)
def test_perturbing_one_token_changes_its_document_only(results, layout, pack):
    before, after = results[layout, pack, "packed"], results[layout, pack, "perturbed"]
    for number, span in enumerate(spans(pack)):
        if number != PERTURBED:
            assert np.array_equal(before[span], after[span]), f"document {number} changed"
    changed = np.abs(after - before)[spans(pack)[PERTURBED]].max(-1)
    middle = PACKS[pack][PERTURBED] // 2
    assert np.all(changed[:middle] == 0)  # causal
    assert np.all(changed[middle:] > 0)


@pytest.mark.distributed
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pack", PACKS)
def test_packed_logits_are_those_of_each_document_alone(results, layout, pack):
    packed = results[layout, pack, "packed"]
    for number, span in enumerate(spans(pack)):
        alone = results[layout, pack, f"alone {number}"]
        assert np.abs(packed[span] - alone).max() <= 2e-6 * np.abs(packed).max(), f"document {number}"


@pytest.mark.distributed
@pytest.mark.parametrize("pack", PACKS)
def test_the_gradient_of_one_document_stays_in_it(results, pack):
    gradient = results["tp1", pack, "gradient"]
    for number, span in enumerate(spans(pack)):
        assert np.all(gradient[span] > 0) if number == PERTURBED else np.all(gradient[span] == 0)
