"""The 25 instruction types of IFEval (arXiv 2311.07911), by what their words ask of an answer.

Where the reference implementation's code differs from that, see `ifeval_reference`.
"""

import json
import re
from collections.abc import Mapping

from nemo_cascade.rewards.constraints.spoken import language_is
from nemo_cascade.rewards.constraints.text import (
    Arguments,
    Check,
    bare_word,
    blank_line_paragraphs,
    count_argument,
    count_word,
    divided_paragraphs,
    keyword_pattern,
    related,
    sentences,
    text_argument,
    texts_argument,
    tokens,
)
from nemo_cascade.rewards.response import is_visible

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\]")
# Emphasis as Markdown reads it, but not within a word: `3*4*5` is a product.
_UNPARTED = r"[\u3040-\u30ff\u3400-\u9fff]"  # signs of scripts that set no blanks between words
_HIGHLIGHT = re.compile(
    rf"(?:(?<![\w*\\])|(?<={_UNPARTED}))(\*{{1,3}})(?![\s*])[^*\n]*(?<![\s\\*])\1(?:(?![\w*])|(?={_UNPARTED}))"
)
_BULLET = re.compile(r"[ \t]*(?:\*(?!\*)|-(?![->]|[.$€£]?\d)|\+(?=\s))(?=.*\S)")
_RULE = re.compile(r"\s*([*-])(?:[ \t]*\1){2,}\s*")
_EMPHASISED = re.compile(r"\s*\*(?![\s*])[^*\n]*(?<!\s)\*(?!\w)")
_COMMAS = re.compile("[,،、，]")
_QUOTES = {
    '"': '"”', "“": '”"', "„": '“”"', "”": "”", "‟": "”", "＂": "＂", "«": "»", "»": "«", "「": "」", "『": "』",
}  # fmt: skip
_FENCE = re.compile(r"(?:```|~~~)[ \t]*(?:json)?[ \t]*\n?", re.IGNORECASE)
_CLOSING_MARKS = " \t\r\n*_`~\"'”’»)"


def _existence(text: str, a: Arguments) -> bool:
    return all(count_word(text, keyword) for keyword in texts_argument(a, "keywords"))


def _frequency(text: str, a: Arguments) -> bool:
    count = count_word(text, text_argument(a, "keyword"))
    return related(count, text_argument(a, "relation"), count_argument(a, "frequency"))


def _forbidden(text: str, a: Arguments) -> bool:
    forbidden = texts_argument(a, "forbidden_words")
    return not any(keyword_pattern(word).search(text) for word in forbidden)


def letter_frequency(text: str, a: Arguments) -> bool:
    """Check how often a letter occurs, ignoring case."""
    count = text.lower().count(text_argument(a, "letter").lower())
    return related(count, text_argument(a, "let_relation"), count_argument(a, "let_frequency"))


def _response_language(text: str, a: Arguments) -> bool:
    return language_is(text, text_argument(a, "language"))


def _number_sentences(text: str, a: Arguments) -> bool:
    return related(len(sentences(text)), text_argument(a, "relation"), count_argument(a, "num_sentences"))


def _number_paragraphs(text: str, a: Arguments) -> bool:
    paragraphs = divided_paragraphs(text)
    return paragraphs is not None and len(paragraphs) == count_argument(a, "num_paragraphs")


def _number_words(text: str, a: Arguments) -> bool:
    return related(len(tokens(text)), text_argument(a, "relation"), count_argument(a, "num_words"))


def _nth_paragraph_first_word(text: str, a: Arguments) -> bool:
    paragraphs, nth = blank_line_paragraphs(text), count_argument(a, "nth_paragraph")
    if len(paragraphs) != count_argument(a, "num_paragraphs") or not 1 <= nth <= len(paragraphs):
        return False
    return first_word_is(paragraphs[nth - 1], text_argument(a, "first_word"))


def first_word_is(text: str, word: str) -> bool:
    """Tell whether a text begins with a word, whatever signs stand around it."""
    return bare_word(tokens(text)[0]) == bare_word(word) if tokens(text) else False


def _placeholders(text: str, a: Arguments) -> bool:
    filled = sum(is_visible(placeholder[1:-1]) for placeholder in _PLACEHOLDER.findall(text))
    return filled >= count_argument(a, "num_placeholders")


def _postscript(text: str, a: Arguments) -> bool:
    marker = text_argument(a, "postscript_marker").strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, a: Arguments) -> bool:
    count = 0
    for line in text.splitlines():
        count += bool(_BULLET.match(line)) and not _RULE.fullmatch(line) and not _EMPHASISED.match(line)
    return count == count_argument(a, "num_bullets")


def _constrained(text: str, a: Arguments) -> bool:
    return any(option in text for option in _OPTIONS)


def _highlights(text: str, a: Arguments) -> bool:
    spans = [match[0].strip("*") for match in _HIGHLIGHT.finditer(text)]
    return sum(is_visible(span) for span in spans) >= count_argument(a, "num_highlights")


def _sections(text: str, a: Arguments) -> bool:
    marker = re.escape(text_argument(a, "section_spliter").strip())
    return len(re.findall(rf"{marker}\s?\d+", text)) >= count_argument(a, "num_sections")


def _json(text: str, a: Arguments) -> bool:
    body = text.strip()
    if opening := _FENCE.match(body):
        body = body[opening.end() :].removesuffix(opening[0][:3])
    try:
        return isinstance(json.loads(body, parse_constant=_no_constant), (dict, list))
    except (ValueError, RecursionError):
        return False


def _no_constant(name: str) -> None:
    """Refuse NaN and infinities, which Python reads, but JSON doesn't have."""
    raise ValueError(name)


def json_value(text: str) -> object:
    """Return the value that a text is as JSON, in a fence or not; NotImplemented where it is none."""
    body = text.strip()
    for opening in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(opening)
    try:
        return json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return NotImplemented


def _title(text: str, a: Arguments) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        operator = bool(line[:start].strip()) and line[start + 2 : start + 3].isspace()  # cout << x; cin >> y
        if 0 <= start < end and not operator and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def _two_responses(text: str, a: Arguments) -> bool:
    parts = text.split("******")
    filled = [part.strip() for part in parts if part.strip()]
    inner_empty = any(not part.strip() for part in parts[1:-1])
    return not inner_empty and len(filled) == 2 and filled[0] != filled[1]


def _repeat_prompt(text: str, a: Arguments) -> bool:
    return text.strip().lower().startswith(text_argument(a, "prompt_to_repeat").strip().lower())


def _end(text: str, a: Arguments) -> bool:
    text, end = (" ".join(t.replace("’", "'").lower().split()) for t in (text, text_argument(a, "end_phrase")))
    # Marks behind the phrase that close a quotation or an emphasis are no words that follow it.
    bare = end.rstrip(_CLOSING_MARKS) or end
    return text.endswith(end) or text.rstrip(_CLOSING_MARKS).endswith(bare)


def _capital_words(text: str, a: Arguments) -> bool:
    count = sum(token.isupper() for token in tokens(text))
    return related(count, text_argument(a, "capital_relation"), count_argument(a, "capital_frequency"))


def _english_capital(text: str, a: Arguments) -> bool:
    return text.isupper() and language_is(text, "en")


def _english_lowercase(text: str, a: Arguments) -> bool:
    return text.islower() and language_is(text, "en")


def _no_comma(text: str, a: Arguments) -> bool:
    return _COMMAS.search(text) is None


def _quotation(text: str, a: Arguments) -> bool:
    body = text.strip()
    return len(body) > 2 and body[-1] in _QUOTES.get(body[0], "") and is_visible(body[1:-1])


IFEVAL: Mapping[str, Check] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
    "startend:quotation": _quotation,
}
