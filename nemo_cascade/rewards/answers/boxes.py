r"""Find the final answer in a response: the last `\boxed{...}`, with those that belong to it."""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w\\-])")
_BARE_BOX = re.compile(r"-?(?:\\[a-zA-Z]+|[\w.]+)")
_STRAY_END = re.compile(r"\{([^{}\\]*)\\\}")
_MOST_BETWEEN = 80
_MARKUP = re.compile(
    r"\\(?:text(?:bf|it|rm|normal)?|mbox|mathrm|quad|qquad|left|right)(?![a-zA-Z])|\\[()\[\],;:! ]|[{}$&*~]|\\\\"
)
_LABEL = re.compile(r"(?:\\[(\[]|\$)?\s*[a-zA-Z](?:_\{?\w{1,4}\}?|'|\(\w\))?\s*=\s*$")
_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
_JOIN = re.compile(r"\b(?:and|or)\b|[,;、，]|和|或|及")
_APART = re.compile(r"[.!?。:=<>]|\n\s*\n|\\(?:ne|approx|to|implies|Rightarrow|rightarrow)\b")
# Words that make what follows another answer than what stands before, not a further one.
_TURN = frozenset(
    {
        "actually",
        "answer",
        "are",
        "because",
        "but",
        "equals",
        "final",
        "finally",
        "gives",
        "hence",
        "however",
        "incorrect",
        "instead",
        "is",
        "it",
        "meaning",
        "means",
        "no",
        "not",
        "rather",
        "since",
        "so",
        "then",
        "therefore",
        "thus",
        "wait",
        "was",
        "which",
        "wrong",
    }
)
_MOST_WORDS = 6


def final_answer(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` (or `\fbox{...}`), None if there is none or it never closes.

    Boxes that only a comma, `and` or `or` (and a few words, such as units) keep apart are the parts of one answer; they
    are joined by commas. Boxes in different sentences, or corrected by a `but`, are different answers: the last counts.
    `\boxed 7` and `\boxed\pi` count as boxes around one word.
    """
    starts = [(match.start(), match.end()) for match in _BOX.finditer(text)]
    if not starts:
        return None
    last = _content(text, starts[-1][1], len(text))
    if last is None:
        return None
    contents, begin = [last[0]], starts[-1][0]
    for start, inside in reversed(starts[:-1]):
        box = _content(text, inside, begin)
        if box is None or not _joined(text[box[1] : begin]):
            break
        contents.append(box[0])
        begin = start
    if all(content == last[0] for content in contents):
        return last[0]
    return ", ".join(reversed(contents))


def _content(text: str, begin: int, end: int) -> tuple[str, int] | None:
    """Return what a box holds and where it ends, None if it doesn't before `end`."""
    if text[begin] != "{":
        word = _BARE_BOX.match(text, begin, end)
        return (word.group(), word.end()) if word else None
    depth, position = 0, begin
    while position < end:
        char = text[position]
        if char == "\\" and text[position + 1 : position + 2] in ("\\", "{", "}"):
            # `185\\}`: a line break, then the brace that closes; `\}`: no brace of TeX.
            position += 2
            continue
        if char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return text[begin + 1 : position], position + 1
        position += 1
    stray = _STRAY_END.match(text, begin, end)  # `185\}`: the backslash was meant to stand behind the number
    return (stray[1], stray.end()) if stray else None


def _joined(between: str) -> bool:
    """Tell whether the text between two boxes makes them parts of one answer."""
    if len(between) > _MOST_BETWEEN:
        return False
    between = _LABEL.sub(" ", between)  # `and y =`
    if _APART.search(between):
        return False
    plain = _MARKUP.sub(" ", between)
    words = [word.casefold() for word in _WORD.findall(plain)]
    if not plain.strip():
        return True
    return bool(_JOIN.search(plain)) and len(words) <= _MOST_WORDS and not _TURN.intersection(words)
