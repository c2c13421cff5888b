"""Bytes of a rank that are counted beside the weights."""

from dataclasses import replace

import pytest

from nemo_cascade.config.layout import Layout
from nemo_cascade.planner import memory_terms
from nemo_cascade.planner.job import Job, Recompute
from nemo_cascade.planner.memory_terms import dynamic_bytes
from nemo_cascade.planner.published.tables import hardware_named, shape_named
from nemo_cascade.training import logprobs


def job(**changes):
    layout = Layout(tp=2, pp=1, vpp=1, cp=1, dp=1, ep=1, etp=1, sp=True)
    plain = Job(shape_named("Nemotron-3-Nano"), hardware_named("H100"), layout, sequence=65536, loss="blocks")
    return replace(plain, **changes)


def test_the_loss_in_blocks_has_the_sizes_that_the_loss_has():
    assert (memory_terms.BLOCK, memory_terms.GPU_COPY, memory_terms.CPU_COPY) == (
        logprobs._BLOCK,
        logprobs._GPU_COPY,
        logprobs._CPU_COPY,
    )
    shape = job().shape
    states, weight = 2 * 2 * shape.hidden * 65536, 8 * shape.vocabulary / 2 * shape.hidden
    assert dynamic_bytes(job(), 0).loss == pytest.approx(states + 2 * 2**26 + 12 * 2**25 + weight)


def test_recomputed_half_layers_keep_their_inputs_and_work_on_the_largest_of_them():
    whole = dynamic_bytes(job(recompute=Recompute(whole=True)), 0)
    shape = job().shape
    assert sum(whole.kept.values()) == 0
    assert whole.inputs == len(shape.layers) * 2 * shape.hidden * 65536 / 2
    (working,) = [size for size in whole.working.values() if size]
    largest = max(memory_terms.kept_bytes(job(), block) for block in shape.blocks)
    assert working == pytest.approx(largest * 65536)
