"""Compare the texts of two final answers."""

import re
from functools import cache, lru_cache

from nemo_cascade.rewards.answers.equality import same_answer
from nemo_cascade.rewards.answers.look import hidden_characters, plain_look
from nemo_cascade.rewards.answers.node import Node, Unreadable
from nemo_cascade.rewards.answers.reading import read_answer
from nemo_cascade.rewards.answers.words import SAME_AS_SIGN
from nemo_cascade.rewards.verifier import Score, VerifierError

_LONGEST = 1000  # characters of an answer, unless the reference is longer
_REMEMBERED = 1024
_FORMAT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathbf|mathrm|mbox|boxed)(?![a-zA-Z])|[{}]|\\ |\\,")
_PUNCTUATION = re.compile(r"[\s.\"`?~$]+")
_CHOICE = re.compile(r"\(?([A-Z])(?:\)| ?[.:](?!\d))\s*(\S.*)", re.DOTALL)
_NAMED_CHOICE = re.compile(r"(?:[Cc]hoice|[Oo]ption|[Aa]nswer):? \(?([A-Z])\)?")
_OTHER_CHOICE = re.compile(r"\([A-Z]\)|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|,\s*[A-Z]\b")

Choice = tuple[str, str]


@cache
def warmed_up() -> bool:
    """Load what a comparison needs, once in the process that others are forked from."""
    return all(
        compare(*pair) for pair in ((r"\sqrt{12}+x", r"2\sqrt{3}+x"), ("(1,2]", "1<x\\le 2"), ("0.5", r"\frac{1}{2}"))
    )


def compare(gold: str, answer: str) -> float:
    """Return 1 if two answers in LaTeX are equal, else 0.

    Raises:
        VerifierError: the reference can't be read (kind `record`).
    """
    detail = f"{answer[:80]} against {gold[:80]}"
    if len(answer) > max(_LONGEST, 2 * len(gold)):
        return Score(0.0, f"not a final answer: {len(answer)} characters")
    gold, answer = plain_look(gold), plain_look(answer)
    hidden = hidden_characters(answer)
    if hidden is not None and hidden != hidden_characters(gold):
        return Score(0.0, f"not a final answer: hidden character {hidden}")
    if not answer:
        return Score(0.0, "an empty answer")
    if answer == gold:
        return Score(1.0, detail)
    reference, chosen = _reference(gold)
    found = _read(answer)
    if found is not None and _left_to_compute(found) and not _left_to_compute(reference):
        return Score(0.0, f"not a final answer: {detail}")
    if found is not None and same_answer(reference, found):
        return Score(1.0, detail)
    if reference.kind in ("word", "letters", "phrase") and _same_text(gold, answer):
        return Score(1.0, detail)
    return Score(float(_same_choice(chosen, reference, _choice(answer), found)), detail)


def check_reference(gold: str) -> None:
    """Read a reference and say nothing.

    Raises:
        VerifierError: it can't be read (kind `record`).
    """
    if not (look := plain_look(gold)):
        raise VerifierError("record", f"answer {gold[:80]!r} says nothing")
    _reference(look)


def _reference(gold: str) -> tuple[Node, Choice | None]:
    """Read a reference of plain look: its value, and the choice that it is."""
    reference, chosen = _read(gold), _choice(gold)
    if reference is None and chosen is not None:
        reference = _read(chosen[1])
    if reference is None:
        raise VerifierError("record", f"answer {gold[:80]!r} is no LaTeX that can be read")
    return reference, chosen


@lru_cache(maxsize=_REMEMBERED)
def _read(latex: str) -> Node | None:
    if (sign := SAME_AS_SIGN.get(_bare(latex))) is not None:
        return Node("const", text=sign)
    try:
        return read_answer(latex)
    except Unreadable:
        return None


def _same_text(gold: str, answer: str) -> bool:
    """Tell whether two texts without numbers are the same but for blanks, formats, punctuation and capitals."""
    return _bare(gold) == _bare(answer) and not any(char.isdigit() for char in gold)


def _bare(text: str) -> str:
    return _PUNCTUATION.sub("", _FORMAT.sub("", text)).casefold()


def _left_to_compute(node: Node) -> bool:
    """Tell whether a sum, product, integral or limit is left to be computed; of an equation, on its right side."""
    if node.kind == "chain" and set(node.text.split()) == {"="}:
        node = node.parts[-1]
    return any(part.kind == "big" for part in node.walk())


def _same_choice(gold: Choice | None, reference: Node, answer: Choice | None, found: Node | None) -> bool:
    r"""Compare the letters of a multiple choice: `\textbf{(A)}\ 5` is A, and also 5."""
    if gold is None:
        if answer is None:
            return False
        content = _read(answer[1])
        letter = reference.kind == "sym" and reference.text == answer[0]
        return letter or (content is not None and same_answer(reference, content))
    if answer is not None:
        return answer[0] == gold[0]
    content = _read(gold[1])
    return found is not None and (
        (found.kind == "sym" and found.text == gold[0]) or (content is not None and same_answer(content, found))
    )


def _choice(text: str) -> Choice | None:
    """Return the letter and the content of a choice, None if a text is none."""
    plain = " ".join(_FORMAT.sub(" ", text).split())
    plain = re.sub(r"\( ?([A-Z]) ?\)", r"(\1)", plain)
    if named := _NAMED_CHOICE.fullmatch(plain):
        return named[1], named[1]
    match = _CHOICE.fullmatch(plain)
    if match is None or _OTHER_CHOICE.search(match[2]):
        return None
    return match[1], match[2]
