import pytest

from nemo_cascade.rewards.evaluation_cost import cost_problem
from nemo_cascade.rewards.latex import hidden_characters, last_boxed, plain_number
from nemo_cascade.rewards.math import MathVerifier
from nemo_cascade.rewards.math_equality import shared_equality
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.verifier import VerifierError


@pytest.fixture(scope="module")
def verifier():
    return MathVerifier()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("plain", "plain"),
        ("<think>a", None),
        ("<think>a</think>b<think>c", None),
        ("<think>a</think>b</think>c", "c"),
        ("", ""),
    ],
)
def test_answer_is_what_follows_the_last_closed_thinking_block(text, answer):
    assert split_response(text).answer == answer


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed 7", "7"),
        (r"\boxed\pi", r"\pi"),
        (r"\fbox{x}", "x"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1", None),
        (r"\boxed{1} and \boxed{2", None),
        ("no box", None),
    ],
)
def test_last_box_counts_and_an_open_one_is_none(text, boxed):
    assert last_boxed(text) == boxed


def test_plain_numbers_are_read_exactly_or_not_at_all():
    assert plain_number("0.1") != plain_number("0.10000000000000001")
    assert plain_number("1,234.50") == plain_number("1234.5")
    for text in ("1,23", "1e5", "--1", "1.2.3", "", ".", "٣", "1/2", "1 2"):
        assert plain_number(text) is None, text


def test_mixed_language_reasoning_is_scored_as_configured():
    text = "<think>先算 2+2</think> \\boxed{4}"
    assert MathVerifier().verify({"answer": "4"}, Response(text)) == 1.0
    strict = MathVerifier(mixed_language_score=-1.0)
    assert strict.verify({"answer": "4"}, Response(text)) == -1.0
    assert strict.verify({"answer": "4"}, Response("<think>let α be 4</think> \\boxed{4}")) == 1.0
    quoting = {"answer": "4", "messages": [{"role": "user", "content": "What does 先算 2+2 give?"}]}
    assert strict.verify(quoting, Response(text)) == 1.0


def test_unusable_references_are_errors_and_unusable_answers_are_wrong(verifier):
    for record in ({}, {"answer": None}, {"answer": " "}, {"answer": True}):
        with pytest.raises(VerifierError, match="record"):
            verifier.verify(record, Response(r"\boxed{4}"))
    for answer in ("{", r"\frac{1}{", r"\undefined\command", "^", "((((", "\\", "&&", r"\begin{pmatrix}"):
        assert shared_equality().compare("4", answer) == 0.0, answer


def test_numeric_references_may_be_numbers(verifier):
    assert verifier.verify({"answer": 4}, Response(r"\boxed{4.0}")) == 1.0
    assert verifier.verify({"answer": 0.5}, Response(r"\boxed{\frac12}")) == 1.0


def test_cost_limits_grow_with_the_reference():
    assert cost_problem("2^{2000000}", "7") is not None
    assert cost_problem("2^{2000000}", "3^{2000000}") is None
    assert cost_problem(r"\int_0^1 f", "1") is not None
    assert cost_problem(r"\int_0^1 f", r"\int_0^1 g") is None
    for fair in (r"e^{-x^2}", r"2^{n^2}", "10^{100}", "2^{3^2}", "99!", r"\binom{20}{10}", r"x^{100}", r"2^{2025}-1"):
        assert cost_problem(fair, "7") is None, fair


def test_invisible_and_disguised_characters_are_named():
    assert hidden_characters("4​2") == "U+200B"
    assert hidden_characters("٤") == "U+0664"
    assert hidden_characters("a\0b") == "U+0000"
    assert hidden_characters("x = 4\n") is None
