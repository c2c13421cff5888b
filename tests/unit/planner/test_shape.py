import pytest

from nemo_cascade.planner.job import dealt_layers
from nemo_cascade.planner.published.tables import hardware_table, shape_named

# Totals as model cards and papers print them, billions.
CARDS = {
    "Llama3-8B": 8.03, "Llama3-70B": 70.6, "Llama3.1-405B": 405.9, "Qwen3-8B": 8.19, "Qwen3-30B-A3B": 30.5,
    "Qwen3-235B-A22B": 235.1, "DeepSeek-V3": 671.0, "Nemotron-3-Nano": 31.6, "Kimi-K2": 1026.0,
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_parameters_are_those_that_the_cards_print(name):
    assert sum(shape_named(name).parameters) / 1e9 == pytest.approx(CARDS[name], rel=0.01)


def test_flops_of_a_token_are_six_times_the_matrices_and_the_causal_half_of_attention():
    shape = shape_named("Llama3-8B")
    matrices = shape.parameters[0] + shape.vocabulary * shape.hidden - 2 * 32 * shape.hidden
    attention = 3 * 2 * 2 * 32 * 128 * 8192 / 2 * 32
    assert shape.flops(8192) == pytest.approx(6 * matrices + attention)


def test_a_layout_string_tells_the_decoder_layers_of_each_chunk():
    assert dealt_layers("Et*3|(tt|)*14mL") == (3, *[2] * 14, 0)


def test_every_shipped_machine_names_its_source():
    table = hardware_table()
    assert {"A100", "H100", "H200", "B200", "B300", "GB200", "GB300", "CPU"} <= table.keys()
    assert all(machine.source for machine in table.values())
