"""Pairs of answers in math_pairs.txt: half of them equal, half tricky and not equal."""

from pathlib import Path

import pytest

from nemo_cascade.rewards.math import MathVerifier
from nemo_cascade.rewards.response import Response

PAIRS = Path(__file__).with_name("math_pairs.txt")
KINDS = Path(__file__).with_name("math_kinds.txt")  # more pairs, by the kind of fault that they once showed


def pairs(path=PAIRS):
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            verdict, gold, answer = (part.strip() for part in (line + " ").split(" | "))
            yield gold, answer, verdict == "="


@pytest.fixture(scope="module")
def verifier():
    return MathVerifier()


def test_pairs_are_many_and_balanced():
    verdicts = [equal for _, _, equal in pairs()]
    assert len(verdicts) >= 200
    assert 0.4 <= sum(verdicts) / len(verdicts) <= 0.6


def test_each_pair_gets_its_verdict(verifier):
    wrong = []
    for gold, answer, equal in [*pairs(), *pairs(KINDS)]:
        text = f"<think>\nsome \\boxed{{thought}}\n</think>\nSo the answer is $\\boxed{{{answer}}}$."
        score = verifier.verify({"answer": gold}, Response(text))
        if score != float(equal):
            wrong.append((gold, answer, "must be equal" if equal else "must differ", score.detail))
    assert wrong == []


def test_a_reference_equals_itself_however_it_is_written(verifier):
    for gold in {gold for gold, _, _ in pairs()}:
        for form in (gold, f"${gold}$", f"\\left. {gold} \\right.".replace("\\left.", "").replace("\\right.", "")):
            assert verifier.verify({"answer": form}, Response(f"\\boxed{{{gold}}}")) == 1.0, gold
