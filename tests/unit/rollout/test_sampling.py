import numpy as np
import pytest

from nemo_cascade.errors import RolloutError
from nemo_cascade.rollout.sampling import check_questions, request_seed
from nemo_cascade.types import Question


def prompt(name, length):
    return Question(name, np.arange(length, dtype=np.int32), range(2))


def test_a_request_seed_is_a_stable_function_of_its_place():
    # The literal pins the hash: a resumed run of another day must sample the same tokens.
    assert request_seed(7, "set/3", 2) == 8841399265019919439
    places = [(s, f"set/{p}", g) for s in range(4) for p in range(20) for g in range(8)]
    seeds = {request_seed(*place) for place in places}
    assert len(seeds) == len(places)
    assert all(0 <= s < 2**63 for s in seeds)


def test_every_prompt_without_room_for_its_response_is_named():
    prompts = [prompt("a", 60), prompt("b", 61), prompt("c", 10), prompt("d", 100)]
    with pytest.raises(RolloutError) as caught:
        check_questions(prompts, max_tokens=40, max_model_len=100, vocab_size=101)
    assert caught.value.value == "b (61 tokens), d (100 tokens)"
    assert "60 tokens = max_model_len 100 - max_tokens 40" in str(caught.value)
    check_questions([prompt("a", 60)], max_tokens=40, max_model_len=100, vocab_size=101)


def test_prompts_that_would_share_their_seeds_are_refused():
    with pytest.raises(RolloutError, match="same id"):
        check_questions([prompt("a", 3), prompt("b", 3), prompt("a", 4)], 8, 100, 101)
    with pytest.raises(RolloutError, match="empty"):
        check_questions([prompt("a", 0)], 8, 100, 101)


def test_a_prompt_of_another_tokenizer_is_refused_by_name():
    with pytest.raises(RolloutError, match=r"b; allowed: ids below vocab_size=50"):
        check_questions([prompt("a", 50), prompt("b", 51)], 8, 100, 50)
