import pytest

from nemo_cascade.rewards.answers.boxes import final_answer
from nemo_cascade.rewards.answers.compare import compare
from nemo_cascade.rewards.answers.look import hidden_characters, plain_look
from nemo_cascade.rewards.answers.reading import read_answer
from nemo_cascade.rewards.answers.values import exact
from nemo_cascade.rewards.math import MathVerifier
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
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{185\\}", r"185\\"),
        (r"\boxed{185\}", "185"),
        (r"\boxed{\begin{pmatrix}1\\{2}\end{pmatrix}}", r"\begin{pmatrix}1\\{2}\end{pmatrix}"),
    ],
)
def test_last_box_counts_and_an_open_one_is_none(text, boxed):
    assert final_answer(text) == boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"\boxed{1}, \boxed{2}, \boxed{3}", "1, 2, 3"),
        (r"$x = \boxed{3}$ and $y = \boxed{4}$", "3, 4"),
        (r"\boxed{2} apples or \boxed{3} pears", "2, 3"),
        (r"\boxed{1}, but it is \boxed{2}", "2"),
        (r"\boxed{1}, so the answer is \boxed{2}", "2"),
        (r"It is \boxed{1}. Or \boxed{2}", "2"),
        ("\\boxed{1}\n\n\\boxed{2}", "2"),
        (r"\boxed{5} and, once more, \boxed{5}", "5"),
        (r"\boxed{1} " + "and " * 100 + r"\boxed{2}", "2"),
    ],
)
def test_boxes_that_only_a_connective_keeps_apart_are_one_answer(text, answer):
    assert final_answer(text) == answer


def test_plain_numbers_are_exact_or_not_read():
    assert compare("0.1", "0.10000000000000001") == 0.0
    assert exact(read_answer("1,234.50")) == exact(read_answer("1234.5"))
    for text in ("--1 2", "1.2.3", "", ".", "٣", "1 2"):
        assert compare("7", text) == 0.0, text


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
        assert compare("4", answer) == 0.0, answer


def test_numeric_references_may_be_numbers(verifier):
    assert verifier.verify({"answer": 4}, Response(r"\boxed{4.0}")) == 1.0
    assert verifier.verify({"answer": 0.5}, Response(r"\boxed{\frac12}")) == 1.0


def test_nothing_is_too_costly_to_compare():
    for bomb in (
        r"9^{9^{9^{9}}}",
        "2^{2000000}",
        "(10^{9})!",
        r"\binom{999999999}{4}",
        "1e999999",
        r"\sin(9^{999999})",
    ):
        assert compare("7", bomb) == 0.0, bomb
    assert compare("2^{2000000}", "4^{1000000}") == 1.0
    assert compare("2^{2000000}", "4^{1000001}") == 0.0
    assert compare(r"\int_0^1 f", r"\int_0^1 g") == 0.0
    assert compare("1", r"\sum_{k=1}^{1} k") == 0.0
    assert compare(r"\sum_{k=1}^{4} k", "10") == 1.0


def test_invisible_and_disguised_characters_are_named():
    assert hidden_characters("4​2") == "U+200B"
    assert hidden_characters("٤") == "U+0664"
    assert hidden_characters("a\0b") == "U+0000"
    assert hidden_characters("x = 4\n") is None


def test_look_keeps_what_tells_numbers_apart():
    assert plain_look("$48$, $384$") == "48 , 384"
    assert plain_look("\\left( \\dfrac{1}{2}\\;,\\;3 \\right].") == "( \\dfrac{1}{2} , 3 ]"
