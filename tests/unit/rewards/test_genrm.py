import json
import math

import numpy as np
import pytest

from nemo_cascade.config.stages.tasks import ComparisonPromptConfig
from nemo_cascade.data.prompts.comparison_rows import ComparisonPrompts, swapped
from nemo_cascade.errors import RewardError
from nemo_cascade.rewards.genrm import (
    Comparison,
    GenRM,
    GenRMTrainingVerifier,
    compared_pairs,
    match_scores,
    parse_comparison,
)
from nemo_cascade.rewards.judge import JudgeClient
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.shaping import (
    LengthControl,
    bounded_scores,
    combined_instruction_rewards,
    good_enough,
    length_controlled,
    length_weights,
    punish_code_switch,
)
from nemo_cascade.rewards.verifier import VerifierError
from tests.support.judge_server import first_token, judge_server, says

PROMPT = [{"role": "user", "content": "Hello?"}]


def test_combined_reward_ranks_verified_over_unverified_and_better_over_worse():
    scores = [1.0, 3.0, 2.0, 9.0]
    mean, std = np.mean(scores), np.std(scores)
    due = [1 + 1 / (1 + math.exp(-(s - mean) / std)) for s in scores[:3]] + [0.0]
    np.testing.assert_allclose(combined_instruction_rewards([True, True, True, False], scores), due)
    np.testing.assert_allclose(combined_instruction_rewards([True, False], [2.0, 2.0]), [1.5, 0.0])


def test_bounded_scores_and_code_switch_follow_the_paper():
    np.testing.assert_allclose(bounded_scores([0.0, 2.0]), [math.tanh(-1), math.tanh(1)])
    np.testing.assert_allclose(punish_code_switch([[1.0, 2.0], [3.0, -1.0]], [[0, 1], [0, 0]]), [[1, -11], [3, -1]])


def test_length_terms_are_centred_and_vanish_for_equal_lengths():
    np.testing.assert_allclose(length_weights([10, 20, 30]), [0.5, 0.0, -0.5])
    np.testing.assert_allclose(length_weights([7, 7, 7]), [0.0, 0.0, 0.0])


def test_length_control_pays_the_bonus_only_to_the_short_and_good():
    base, think, answer = [4.0, 2.0, 1.0], [100, 50, 10], [10, 20, 30]
    control = LengthControl(think=0.5, answer=0.3, think_bonus=0.7, answer_bonus=0.9)
    due = np.array(base) + 0.5 * length_weights(think) + 0.3 * length_weights(answer)
    due[0] += 0.9  # shortest answer, best base; the shortest thinking belongs to the worst and gets nothing
    np.testing.assert_allclose(length_controlled(base, think, answer, control), due)
    empty_thinking = length_controlled([4.0, 4.0], [0, 5], [9, 9], control)
    np.testing.assert_allclose(empty_thinking, [4 + 0.25 + 0.9, 4 - 0.25 + 0.7])


@pytest.mark.parametrize(
    ("base", "percentile", "least"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], 80, 8),  # interpolated it would be 6.6, and 7 good enough
        (range(16), 80, 13),
        (range(10), 80, 8),
        (range(5), 80, 4),
        ([3, 3, 1, 2], 80, 3),
        ([2, 1], 80, 2),
        (range(8), 50, 4),
        (range(8), 0, 0),
        (range(8), 100, 7),
    ],
)
def test_good_enough_is_a_reward_at_gyms_place(base, percentile, least):
    assert good_enough(list(base), percentile) == least


def test_ranking_breaks_ties_and_only_ties():
    assert match_scores(Comparison(4, 4, 2)) == (5.5, 2.5)
    assert match_scores(Comparison(4, 2, 6)) == (4, 2)


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ('{"score_1": 4, "score_2": 2, "ranking": 2}', Comparison(4, 2, 2)),
        ('<think>{"score_1": 1}</think>ok {"score_1": 5, "score_2": 1, "ranking": 1}', Comparison(5, 1, 1)),
        ('{"score_1": 5, "score_2": 1, "ranking": 1} {"other": 1}', Comparison(5, 1, 1)),
        ('{"score_1": 6, "score_2": 1, "ranking": 1}', None),
        ('{"score_1": NaN, "score_2": 1, "ranking": 1}', None),
        ('<think>{"score_1": 5, "score_2": 1, "ranking": 1}', None),
        ("nothing", None),
    ],
)
def test_comparison_is_the_last_readable_object_in_range(text, due):
    assert parse_comparison(text) == due


def test_group_is_compared_in_a_circle_and_scored_by_quality():
    quality = {"AAA": 5, "BB": 3, "C": 1}

    def judge(request):
        text = request["messages"][0]["content"]
        first, second = (
            next(q for name, q in quality.items() if f"[Response {number}]\n{name}\n" in text) for number in (1, 2)
        )
        return 200, says("<think>hm</think>" + json.dumps({"score_1": first, "score_2": second, "ranking": 3}))

    with judge_server(judge) as (url, requests):
        genrm = GenRM(JudgeClient(url, "judge"))
        scores = genrm.score_group(PROMPT, [Response(f"<think>t</think>{name}") for name in quality])
    assert len(requests) == 3
    assert {path for path, _ in requests} == {"/v1/chat/completions"}
    assert requests[0][1]["model"] == "judge"
    assert requests[0][1]["temperature"] == 0.6
    np.testing.assert_allclose(scores.rewards_G, [5, 3, 1])
    assert scores.unparsable == 0


def test_all_pairs_are_each_compared_once_in_positions_that_even_out():
    pairs = compared_pairs(6, "all")
    assert sorted(tuple(sorted(pair)) for pair in pairs) == [(i, j) for i in range(6) for j in range(i + 1, 6)]
    first = [sum(one == i for one, _ in pairs) for i in range(6)]
    assert max(first) - min(first) <= 2
    assert compared_pairs(3, "circular") == [(0, 1), (1, 2), (2, 0)]


def test_a_comparison_that_is_asked_the_other_way_round_is_due_the_other_scores():
    row = {"messages": PROMPT, "response_1": "Good.", "response_2": "Bad.", "score_1": 4, "score_2": 2, "ranking": 2}
    given, other = ComparisonPrompts(ComparisonPromptConfig(enabled=True)).build(row)
    asked = [made.row["messages"][0]["content"] for made in (given, other)]
    assert asked[0].index("Good.") < asked[0].index("Bad.")
    assert asked[1].index("Bad.") < asked[1].index("Good.")
    assert [other.row[k] for k in ("score_1", "score_2", "ranking")] == [2, 4, 5]
    verifier, answer = GenRMTrainingVerifier(), Response('{"score_1": 2, "score_2": 4, "ranking": 5}')
    assert (verifier.verify(other.row, answer), verifier.verify(given.row, answer)) == (0.0, -7.0)
    assert swapped(swapped(row)) == row
    [bad] = ComparisonPrompts(ComparisonPromptConfig(enabled=True)).build({"messages": PROMPT})
    assert "lacks response_1" in bad.problem


def test_unreadable_judgements_are_retried_then_count_as_undecided():
    with judge_server(lambda request: (200, says("the first one"))) as (url, requests):
        genrm = GenRM(JudgeClient(url, "judge"), parse_attempts=2)
        scores = genrm.score_group(PROMPT, [Response("a"), Response("bb")])
    assert len(requests) == 4
    assert scores.unparsable == 2
    np.testing.assert_allclose(scores.rewards_G, [3.0, 3.0])


def test_broken_server_is_an_infrastructure_error_after_retries_never_a_score():
    with judge_server(lambda request: (503, "busy")) as (url, requests):
        with pytest.raises(VerifierError, match=r"infrastructure.*status 503"):
            JudgeClient(url, "judge", attempts=2).chat(PROMPT)
        assert len(requests) == 2
    with pytest.raises(VerifierError, match=r"infrastructure.*refused"):
        JudgeClient(url, "judge", attempts=1).chat(PROMPT)
    with judge_server(lambda request: (400, "bad request")) as (url, requests):
        with pytest.raises(VerifierError, match="bad request"):
            JudgeClient(url, "judge").chat(PROMPT)
        assert len(requests) == 1
    with judge_server(lambda request: (200, "{}")) as (url, _), pytest.raises(VerifierError, match="can't be read"):
        JudgeClient(url, "judge").chat(PROMPT)


def test_yes_probability_pools_spellings_of_the_first_token():
    choice = first_token(YES=math.log(0.5), _yes=math.log(0.1), No=math.log(0.2), Maybe=math.log(0.2))
    with judge_server(lambda request: (200, choice)) as (url, requests):
        assert JudgeClient(url, "judge").yes_probability(PROMPT) == pytest.approx(0.75)
        assert requests[0][1] | {"logprobs": True, "max_tokens": 1} == requests[0][1]
    undecided = judge_server(lambda request: (200, first_token(Hm=-0.1)))
    with undecided as (url, _), pytest.raises(VerifierError, match="neither YES nor NO"):
        JudgeClient(url, "judge").yes_probability(PROMPT)


def test_judge_url_must_be_http():
    with pytest.raises(RewardError, match="no http URL"):
        JudgeClient("judge:8000", "judge")


def test_a_judge_s_key_comes_from_the_environment_and_is_refused_where_it_is_not_set(monkeypatch):
    with judge_server(lambda request: (200, says("yes")), key="secret") as (url, _):
        with pytest.raises(RewardError, match="JUDGE_S_KEY"):
            JudgeClient(url, "judge", api_key_variable="JUDGE_S_KEY")
        monkeypatch.setenv("JUDGE_S_KEY", "secret")
        assert JudgeClient(url, "judge", api_key_variable="JUDGE_S_KEY").chat(PROMPT)["message"]["content"] == "yes"
        with pytest.raises(VerifierError, match="401"):
            JudgeClient(url, "judge").chat(PROMPT)
