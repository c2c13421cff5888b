import pytest

from nemo_cascade.actors.placement import GpuSlot, engine_slots, in_order, policy_slots, scorer_slots
from nemo_cascade.actors.ranks import network_card
from nemo_cascade.config.rollout import RolloutConfig
from nemo_cascade.config.schema import ScorerConfig
from nemo_cascade.errors import ConfigError

SLOTS = [GpuSlot(node, gpu) for node in ("a", "b") for gpu in range(4)]


def engines(count, size, placement):
    return engine_slots(SLOTS, RolloutConfig(num_engines=count, tensor_parallel_size=size, placement=placement))


def test_the_drivers_node_comes_first():
    assert policy_slots(in_order(SLOTS[::-1], "b"), 5) == [*SLOTS[4:], SLOTS[0]]
    assert in_order(SLOTS[::-1], "a node without a GPU") == SLOTS


def test_colocated_engines_sit_on_the_policys_gpus_from_the_front():
    assert engines(2, 2, "colocated") == [SLOTS[0:2], SLOTS[2:4]]
    assert policy_slots(SLOTS, 4) == SLOTS[:4]


def test_disaggregated_engines_take_gpus_from_the_back():
    assert engines(2, 2, "disaggregated") == [SLOTS[4:6], SLOTS[6:8]]


def test_a_reward_model_stands_at_the_back_before_engines_with_gpus_of_their_own():
    colocated, apart = RolloutConfig(), RolloutConfig(num_engines=2, placement="disaggregated")
    assert scorer_slots(SLOTS, ScorerConfig(tensor_parallel_size=2), colocated) == [SLOTS[6:8]]
    two = ScorerConfig(tensor_parallel_size=2, num_replicas=2)
    assert scorer_slots(SLOTS, two, apart) == [SLOTS[2:4], SLOTS[4:6]]


def test_an_engine_never_spans_nodes():
    with pytest.raises(ConfigError, match="engine 1 would span nodes"):
        engines(2, 3, "colocated")


def test_too_few_gpus_are_refused_with_the_numbers():
    with pytest.raises(ConfigError, match="3 engines of 4 GPUs need 12, the run has 8"):
        engines(3, 4, "colocated")
    with pytest.raises(ConfigError, match="needs 9 GPUs, the run has 8"):
        policy_slots(SLOTS, 9)


def test_the_network_card_of_an_address_is_named():
    """Gloo is told it, for a host's name leads to its loopback interface on Debian."""
    assert network_card("127.0.0.1") == "lo"
    assert network_card("192.0.2.255") is None
