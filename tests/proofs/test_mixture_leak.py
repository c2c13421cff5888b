"""Documents of one pack never see one another in a model of state spaces: neither by state nor by convolution."""

import numpy as np
import pytest

from tests.proofs.test_packing_leak import PACKS, PERTURBED, run_packs, spans
from tests.support.hf_models import write_hf_model

LAYOUTS = {
    "tp1": {"data_parallel_size": 2},
    "tp2": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "pp2": {"pipeline_model_parallel_size": 2},
    "ep2": {"data_parallel_size": 2, "expert_model_parallel_size": 2},
}


@pytest.fixture(scope="module", params=["nemotron_h_dense", "nemotron_h"])
def outcome(request, tmp_path_factory):
    from nemo_cascade.training.launch import run_ranks

    folder = write_hf_model(tmp_path_factory.mktemp("leak") / "model", request.param)
    experts = request.param == "nemotron_h"
    layouts = {name: sizes for name, sizes in LAYOUTS.items() if experts or name != "ep2"}
    answers = run_ranks(run_packs, 2, str(folder), layouts, deadline_s=200)
    # An expert's tokens are multiplied together, and a product of other height rounds otherwise.
    rounding = 2e-6 if experts else 0.0
    return layouts, rounding, {key: value for answer in answers for key, value in answer.items()}


@pytest.mark.distributed
@pytest.mark.long
def test_perturbing_one_token_changes_its_document_only(outcome):
    layouts, rounding, results = outcome
    for layout in layouts:
        for pack in PACKS:
            before, after = results[layout, pack, "packed"], results[layout, pack, "perturbed"]
            changed = np.abs(after - before).max(-1) / np.abs(before).max()
            for number, span in enumerate(spans(pack)):
                if number != PERTURBED:
                    assert changed[span].max() <= rounding, (layout, pack, number)
            own, middle = changed[spans(pack)[PERTURBED]], PACKS[pack][PERTURBED] // 2
            assert own[:middle].max() <= rounding  # causal
            assert own[middle:].min() > rounding


@pytest.mark.distributed
@pytest.mark.long
def test_packed_logits_are_those_of_each_document_alone(outcome):
    layouts, _, results = outcome
    for layout in layouts:
        for pack in PACKS:
            packed = results[layout, pack, "packed"]
            for number, span in enumerate(spans(pack)):
                difference = np.abs(packed[span] - results[layout, pack, f"alone {number}"]).max()
                assert difference <= 3e-6 * np.abs(packed).max(), (layout, pack, number)


@pytest.mark.distributed
@pytest.mark.long
def test_the_gradient_of_one_document_stays_in_it(outcome):
    _, _, results = outcome
    for pack in PACKS:
        gradient = results["tp1", pack, "gradient"]
        for number, span in enumerate(spans(pack)):
            assert np.all(gradient[span] > 0) if number == PERTURBED else np.all(gradient[span] == 0)
