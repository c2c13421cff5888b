from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.stages.rollout_rules import ShapingConfig
from nemo_cascade.rl.rewards import Marks, code_switches, rules_of, stage_formula
from nemo_cascade.types import Task

SCORES = np.array([[1.0, 3.0, 5.0], [2.0, 2.0, 9.0]])
VALID = np.array([[True, True, True], [True, True, False]])
NONE = np.zeros_like(VALID)
RECORD = {"messages": [{"role": "user", "content": "What animal is it that you can see in the picture?"}]}
SWITCHED = {"code_switch_margin": 10.0}


def marks_of(
    scores,
    valid,
    *,
    truncated=None,
    switched=None,
    preferences=None,
    said=None,
    texts=None,
    record=RECORD,
    overlong="keep",
    **shaping,
):
    """Return what the rules of a stage make of scores; who is `switched` writes in a foreign script."""
    none = np.zeros_like(valid)
    texts = texts or [["Кот" if s else "A cat." for s in row] for row in (none if switched is None else switched)]
    marks = Marks(
        tasks=[Task(f"p/{i}", "x", "x", np.array([1], np.int32), record) for i in range(len(scores))],
        texts=lambda: texts,
        turns=lambda: said or [[[text] for text in row] for row in texts],
        scores=scores,
        valid=valid,
        truncated=none if truncated is None else truncated,
        preferences=np.zeros(scores.shape) if preferences is None else preferences,
        rewards=np.where(valid, scores, 0.0),
        trained=valid.copy(),
        switched=none.copy(),
    )
    for rule in rules_of(SimpleNamespace(overlong=overlong, reward_model="rm", shaping=ShapingConfig(**shaping))):
        rule.apply(marks)
    return marks


def test_without_rules_the_scores_are_the_rewards():
    assert marks_of(SCORES, VALID).rewards.tolist() == [[1.0, 3.0, 5.0], [2.0, 2.0, 0.0]]


def test_a_code_switch_falls_below_the_valid_part_of_the_batch():
    switched = np.array([[False, True, False], [False, False, True]])
    marks = marks_of(SCORES, VALID, switched=switched, **SWITCHED)
    assert marks.rewards.tolist() == [[1.0, 1.0 - 10.0, 5.0], [2.0, 2.0, 0.0]]
    assert marks.switched.tolist() == switched.tolist()


def test_the_bound_is_taken_per_group_over_valid_rewards_behind_the_code_switch_rule():
    switched = np.array([[False, False, True], [False, False, False]])
    rewards = marks_of(SCORES, VALID, switched=switched, bounded=True, **SWITCHED).rewards
    group = np.array([1.0, 3.0, -9.0])
    assert rewards[0] == pytest.approx(np.tanh((group - group.mean()) / group.std()))
    assert rewards[1].tolist() == [0.0, 0.0, 0.0]


def test_a_truncated_response_that_is_zero_is_bounded_like_a_wrong_answer():
    scores, every = np.array([[1.0, 0.0, 1.0, 0.0]]), np.ones((1, 4), bool)
    truncated = np.array([[False, False, True, False]])
    rewards = marks_of(scores, every, truncated=truncated, overlong="zero", bounded=True).rewards
    assert rewards[0, 2] == rewards[0, 1] == rewards[0, 3] < 0 < rewards[0, 0]
    # Nor does the reward model's word make it one that is verified.
    liked = {"preferences": scores, "combine": "preference"}
    assert marks_of(scores, every, truncated=truncated, overlong="zero", **liked).rewards[0, 2] == 0.0


def test_a_truncated_response_that_is_masked_keeps_its_reward_and_is_not_trained():
    truncated = np.array([[False, True, False], [True, False, True]])
    marks = marks_of(SCORES, VALID, truncated=truncated, overlong="mask")
    assert marks.rewards.tolist() == [[1.0, 3.0, 5.0], [2.0, 2.0, 0.0]]
    assert marks.trained.tolist() == [[True, False, True], [False, True, False]]


def test_a_group_none_of_whose_trained_rewards_is_good_enough_is_not_trained_and_keeps_its_rewards():
    scores = np.array([[0.5, -1.0, 0.2], [0.6, 0.0, 0.1], [0.9, 0.1, 0.0]])
    valid = np.array([[True, True, True], [True, True, False], [True, True, True]])
    truncated = np.array([[False, False, False], [False, False, False], [True, False, False]])
    marks = marks_of(scores, valid, truncated=truncated, overlong="mask", least_best=0.5)
    assert marks.trained.tolist() == [[False] * 3, [True, True, False], [False] * 3]
    assert marks.rewards.tolist() == [[0.5, -1.0, 0.2], [0.6, 0.0, 0.0], [0.9, 0.1, 0.0]]


def test_a_batch_without_a_valid_verdict_has_no_rewards():
    assert not marks_of(SCORES, NONE, switched=VALID, bounded=True, **SWITCHED).rewards.any()


def test_the_combined_reward_ranks_verified_responses_by_the_reward_model_and_the_rest_is_zero():
    scores = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    preferences = np.array([[2.0, 9.0, 4.0], [1.0, 1.0, 5.0]])
    rewards = marks_of(scores, VALID, preferences=preferences, combine="preference").rewards
    z = (preferences[0] - preferences[0].mean()) / preferences[0].std()
    assert rewards[0] == pytest.approx([1 + 1 / (1 + np.exp(-z[0])), 0.0, 1 + 1 / (1 + np.exp(-z[2]))])
    assert rewards[1].tolist() == [0.0, 0.0, 0.0]  # the only verified one has no valid verdict


def test_a_stages_formula_names_all_that_happens_to_a_score():
    stage = {
        "kind": "grpo",
        "tasks": {
            "math": {
                "domain": "math",
                "reward": {"kind": "mix", "terms": [{"reward": {"kind": "math"}, "weight": 2.0}]},
            }
        },
        "shaping": {"combine": "preference", "code_switch_margin": 10.0, "bounded": True},
        "reward_model": "rm",
        "overlong": "zero",
        "advantage": {"baseline": "leave_one_out", "normalize_by_std": False},
    }
    assert stage_formula(stage) == (
        "r = 2 * math; truncated: r = 0; r = 1 + sigmoid(z of rm in group) if r >= 1 else 0; "
        "code switch: r = batch minimum - 10; r = tanh((r - group mean) / group std); A = r - mean of the others"
    )
    masked = stage_formula(stage | {"overlong": "mask"})
    assert masked.startswith("r = 2 * math; truncated: no gradient; r = 1 + sigmoid")


def test_a_prompt_in_another_language_may_be_answered_in_it():
    texts = ["Что это? Кот или пёс?", "```python\nprint(1)\n```\n这是什么?", "What is 四?", "Write a poem."]
    prompts = [
        Task(f"p/{i}", "x", "x", np.array([1], np.int32), {"messages": [{"role": "user", "content": text}]})
        for i, text in enumerate(texts)
    ]
    answers = [["Это лиса.", "这"], ["打印数字。", "a"], ["四 is 4", "四是4"], ["Стих", "α verse"]]
    assert code_switches(prompts, answers, "en").tolist() == [[0, 0], [0, 0], [0, 1], [1, 0]]


def test_only_scripts_that_neither_language_nor_prompt_has_are_switches():
    prompts = [
        Task(f"p/{i}", "x", "x", np.array([1], np.int32), {"messages": [{"role": "user", "content": text}]})
        for i, text in enumerate(("What is it?", "Translate привет."))
    ]
    texts = [["A cat, naïvely α.", "Кот"], ["привет", "приветы"]]
    assert code_switches(prompts, texts, "en").tolist() == [[False, True], [False, True]]
    assert code_switches(prompts, texts, "ru").tolist() == [[False, False], [False, False]]


def test_a_fault_of_form_in_any_turn_costs_the_reward_and_is_counted():
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {}}, "required": ["x"]}}}
    ]
    call = '<tool_call>\n{{"name": "{}", "arguments": {{{}}}}}\n</tool_call>'
    good = ["<think>a</think>" + call.format("f", '"x": 1'), "<think>a</think>b"]
    faulty = {
        "invalid_call": ["<think>a</think>" + call.format("g", ""), "<think>a</think>" + call.format("f", "")],
        "malformed_thought": ["b", "<think>a</think>b</think>"],
        "duplicate_thought": ["<think>\nsix\n</think>\nsix "],
        "empty_answer": ["<think>a</think>\u200b", "<think>a"],
    }
    for fault, turns in faulty.items():
        for bad in turns:
            said = [[good, [good[0], bad], [bad]]]
            truncated = np.array([[False, False, True]])
            marks = marks_of(
                np.array([[1.0, 1.0, 1.0]]), np.ones((1, 3), bool), truncated=truncated, said=said,
                record={"mode": "think", "tools": tools}, penalties={fault: 0.0},
            )  # fmt: skip
            assert marks.rewards.tolist() == [[1.0, 0.0, 1.0]], (fault, bad)
            assert marks.faults == {fault: 1}
    stage = {"tasks": {"a": {"reward": {"kind": "math"}}}, "overlong": "keep", "advantage": {
        "baseline": "mean", "normalize_by_std": False}, "shaping": {"penalties": {"empty_answer": 0.0}}}  # fmt: skip
    assert stage_formula(stage) == "r = math; empty answer: r <= 0; A = r - group mean"


def test_length_control_comes_on_top_of_the_bound_and_counts_who_is_valid():
    control = {"think": 0.5, "think_bonus": 0.25}
    texts = [[f"<think>\n{thought}\n</think>\nx" for thought in ("ab", "abcd", "abcdef")]] * 2
    scores, valid = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 9.0]]), np.array([[True, True, True], [True, True, False]])
    rewards = marks_of(scores, valid, texts=texts, bounded=True, length_control=control).rewards
    edge = np.tanh(1.0 / np.std([3.0, 1.0, 2.0]))
    # Shortness is 1, 1/2 and 0 less their mean; the shortest is the best, too, and has the bonus.
    np.testing.assert_allclose(rewards[0], [edge + 0.25 + 0.25, -edge, -0.25])
    np.testing.assert_allclose(rewards[1], [0.25 + 0.25, -0.25, 0.0])
    stage = {"tasks": {"a": {"reward": {"kind": "preference"}}}, "overlong": "keep", "advantage": {
        "baseline": "mean", "normalize_by_std": False}, "shaping": {"length_control": control}}  # fmt: skip
    told = "length: r + 0.5 x shortness of thinking + 0.25 for the shortest thinking if good enough"
    assert stage_formula(stage) == f"r = preference; {told}; A = r - group mean"
