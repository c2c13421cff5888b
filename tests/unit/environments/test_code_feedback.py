"""Rounds of feedback on programs, played by hand with the real sandbox."""

import pytest

from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.environments.code_feedback import CodeFeedback
from nemo_cascade.errors import DataError
from nemo_cascade.types import FinishReason
from tests.support.played import Player

VISIBLE = [{"stdin": "3\n", "expected": "6"}, {"stdin": "5\n", "expected": "10"}]
HIDDEN = [{"stdin": "40\n", "expected": "80"}, {"stdin": "-1\n", "expected": "-2"}]
DOUBLES, DOUBLES_SMALL, THREE = "print(2 * int(input()))", "n = int(input())\nprint(2 * n if n < 9 else 0)", "print(6)"


def row(**more):
    messages = [{"role": "user", "content": "Double it."}]
    return {"messages": messages, "mode": "no_think", "visible_tests": VISIBLE, "tests": HIDDEN, **more}


def fenced(program):
    return f"```python\n{program}\n```"


@pytest.fixture
def player(tokenizers):
    def made(record=None, template="cascade1", **settings):
        environment = CodeFeedback(tokenizers(template), tests_s=10.0, **settings)
        return Player(tokenizers(template), environment, row() if record is None else record)

    return made


def test_a_failing_visible_test_is_the_next_users_turn_and_a_pass_of_all_is_the_end(player):
    playing = player()
    told, step = playing.says(fenced(THREE))
    assert "Input:\n5\nExpected output:\n10" in told
    assert "printed '6" in told
    assert not any(hidden in told for hidden in ("40", "80", "-1"))
    assert step.verdict is None  # if there is no room, the verifier judges this one, the best so far
    told, step = playing.says("I don't know.")
    assert "no closed code block" in told
    assert playing.says(fenced(DOUBLES)) == (None, step.__class__())


def test_the_best_by_visible_tests_is_scored_on_the_hidden_ones_where_it_is_not_the_last(player):
    for first, due in ((THREE, 0.0), (DOUBLES_SMALL.replace("9", "4"), 0.0)):
        playing = player(rounds=1)
        playing.says(fenced(first))
        verdict = playing.says(fenced("print(0)"))[1].verdict
        assert (verdict.score, verdict.detail.startswith("an earlier program: test 1 of 2")) == (due, True)
    # A right program in the first round that a broken visible test speaks against.
    playing = player(row(visible_tests=[*VISIBLE, {"stdin": "1\n", "expected": "3"}]), rounds=1)
    assert playing.says(fenced(DOUBLES))[1].verdict is None
    assert playing.says(fenced(THREE))[1].verdict.score == 1.0
    playing = player(row(visible_tests=[*VISIBLE, {"stdin": "1\n", "expected": "3"}]), rounds=1, answer="last")
    playing.says(fenced(DOUBLES))
    assert playing.says(fenced(THREE))[1].verdict is None


def test_rounds_end_and_so_does_a_turn_that_is_cut_off(player):
    playing = player(rounds=2)
    said = [playing.says(fenced(THREE))[0] for _ in range(3)]
    assert [text is None for text in said] == [False, False, True]
    assert player().says(fenced(THREE), FinishReason.LENGTH)[0] is None


@pytest.mark.parametrize(("template", "anew"), [("nano3", True), ("cascade1", False)])
def test_a_template_that_drops_thoughts_makes_each_round_a_sample_of_its_own(player, template, anew):
    playing = player(row(mode="think"), template)
    thought = "hm\n</think>\n" if template == "nano3" else "<think>\nhm\n</think>\n"
    step = playing.says(thought + fenced(THREE))[1]
    assert step.anew is anew
    assert playing.says(thought + fenced(DOUBLES))[1].observation is None


def test_functions_are_told_by_their_calls(player):
    record = row(tests="", visible_tests=[{"arguments": [2, 3], "expected": 5}], entry_point="add")
    record["input_output"] = {"fn_name": "add", "inputs": [[1, 1]], "outputs": [[2]]}
    told, _ = player(record).says(fenced("def add(a, b):\n    return a"))
    assert "add(2, 3) == 5" in told
    assert "add(1, 1)" not in told


@pytest.mark.parametrize("lacking", ["visible_tests", "tests"])
def test_a_row_without_tests_of_both_kinds_is_refused(player, lacking):
    record = row()
    del record[lacking]
    with pytest.raises(DataError, match="may be seen"):
        player(record)


def test_wrong_uses_are_refused_before_the_run():
    suite = "evaluation.suites.code"
    use = f"+{suite}.environment={{kind: code_feedback, max_turns: 4, step_deadline_s: 9600, settings: {{rounds: 4}}}}"
    told = [
        str(problem) for problem in violations(compose(["cascade=nano", use, f"{suite}.reward={{kind: format}}"])[0])
    ]
    assert any("rounds of feedback that no turn follows" in text and "max_turns=5" in text for text in told)
    assert any(f"{suite}.reward.kind=format" in text for text in told)
    right = use.replace("max_turns: 4", "max_turns: 5")
    assert violations(compose(["cascade=nano", right])[0]) == []
    (told,) = violations(compose(["cascade=nano", right.replace("step_deadline_s: 9600, ", "")])[0])
    assert "deadline of a step" in str(told)
