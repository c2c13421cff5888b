import numpy as np
import pytest

from nemo_cascade.config.stages.rollout_rules import ShapingConfig
from nemo_cascade.stages.shape_rewards import code_switches, shape_rewards
from nemo_cascade.types import Prompt

SCORES = np.array([[1.0, 3.0, 5.0], [2.0, 2.0, 9.0]])
VALID = np.array([[True, True, True], [True, True, False]])
NONE = np.zeros_like(VALID)


def test_without_shaping_the_scores_are_the_rewards():
    assert shape_rewards(SCORES, VALID, NONE, NONE, None, ShapingConfig()).tolist() == [
        [1.0, 3.0, 5.0],
        [2.0, 2.0, 0.0],
    ]


def test_a_code_switch_falls_below_the_valid_part_of_the_batch():
    switched = np.array([[False, True, False], [False, False, True]])
    rewards = shape_rewards(SCORES, VALID, NONE, switched, None, ShapingConfig(code_switch_margin=10.0))
    assert rewards.tolist() == [[1.0, 1.0 - 10.0, 5.0], [2.0, 2.0, 0.0]]


def test_the_bound_is_taken_per_group_over_valid_rewards_behind_the_code_switch_rule():
    switched = np.array([[False, False, True], [False, False, False]])
    rewards = shape_rewards(SCORES, VALID, NONE, switched, None, ShapingConfig(code_switch_margin=10.0, bounded=True))
    group = np.array([1.0, 3.0, -9.0])
    assert rewards[0] == pytest.approx(np.tanh((group - group.mean()) / group.std()))
    assert rewards[1].tolist() == [0.0, 0.0, 0.0]


def test_a_truncated_response_under_overlong_zero_is_bounded_like_a_wrong_answer():
    scores = np.array([[1.0, 0.0, 1.0, 0.0]])
    failed = np.array([[False, False, True, False]])
    every = np.ones_like(failed)
    rewards = shape_rewards(scores, every, failed, ~every, None, ShapingConfig(bounded=True))
    assert rewards[0, 2] == rewards[0, 1] == rewards[0, 3] < 0 < rewards[0, 0]
    # Nor does the reward model's word make it one that is verified.
    combined = shape_rewards(scores, every, failed, ~every, scores, ShapingConfig(combine="preference"))
    assert combined[0, 2] == 0.0


def test_a_batch_without_a_valid_verdict_has_no_rewards():
    shaping = ShapingConfig(code_switch_margin=10.0, bounded=True)
    assert not shape_rewards(SCORES, NONE, NONE, VALID, None, shaping).any()


def test_the_combined_reward_ranks_verified_responses_by_the_reward_model_and_the_rest_is_zero():
    scores = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    preferences = np.array([[2.0, 9.0, 4.0], [1.0, 1.0, 5.0]])
    rewards = shape_rewards(scores, VALID, NONE, NONE, preferences, ShapingConfig(combine="preference"))
    z = (preferences[0] - preferences[0].mean()) / preferences[0].std()
    assert rewards[0] == pytest.approx([1 + 1 / (1 + np.exp(-z[0])), 0.0, 1 + 1 / (1 + np.exp(-z[2]))])
    assert rewards[1].tolist() == [0.0, 0.0, 0.0]  # the only verified one has no valid verdict


def test_a_prompt_in_another_language_may_be_answered_in_it():
    texts = ["Что это? Кот или пёс?", "```python\nprint(1)\n```\n这是什么?", "What is 四?", "Write a poem."]
    prompts = [
        Prompt(f"p/{i}", "x", "x", np.array([1], np.int32), {"messages": [{"role": "user", "content": text}]})
        for i, text in enumerate(texts)
    ]
    answers = [["Это лиса.", "这"], ["打印数字。", "a"], ["四 is 4", "四是4"], ["Стих", "α verse"]]
    assert code_switches(prompts, answers, "en").tolist() == [[0, 0], [0, 0], [0, 1], [1, 0]]


def test_only_scripts_that_neither_language_nor_prompt_has_are_switches():
    prompts = [
        Prompt(f"p/{i}", "x", "x", np.array([1], np.int32), {"messages": [{"role": "user", "content": text}]})
        for i, text in enumerate(("What is it?", "Translate привет."))
    ]
    texts = [["A cat, naïvely α.", "Кот"], ["привет", "приветы"]]
    assert code_switches(prompts, texts, "en").tolist() == [[False, True], [False, True]]
    assert code_switches(prompts, texts, "ru").tolist() == [[False, False], [False, False]]
