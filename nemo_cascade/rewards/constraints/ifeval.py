"""The 25 instruction types of IFEval (arXiv 2311.07911), written from their definitions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from nemo_cascade.rewards.constraints.text import (
    Arguments,
    Check,
    count_argument,
    count_word,
    divided_paragraphs,
    language_is,
    related,
    sentences,
    text_argument,
    texts_argument,
    tokens,
    words,
)

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\]")
_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")


def _existence(text: str, a: Arguments) -> bool:
    return all(count_word(text, keyword) for keyword in texts_argument(a, "keywords"))


def _frequency(text: str, a: Arguments) -> bool:
    count = count_word(text, text_argument(a, "keyword"))
    return related(count, text_argument(a, "relation"), count_argument(a, "frequency"))


def _forbidden(text: str, a: Arguments) -> bool:
    forbidden = texts_argument(a, "forbidden_words")
    return not any(re.search(rf"\b{re.escape(word)}\b", text, flags=re.IGNORECASE) for word in forbidden)


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
    return related(len(words(text)), text_argument(a, "relation"), count_argument(a, "num_words"))


def _nth_paragraph_first_word(text: str, a: Arguments) -> bool:
    paragraphs = [p.strip() for p in text.split("\n\n")]
    number, nth = sum(bool(p) for p in paragraphs), count_argument(a, "nth_paragraph")
    if number != count_argument(a, "num_paragraphs") or not 1 <= nth <= number or not paragraphs[nth - 1]:
        return False
    first = paragraphs[nth - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", first, maxsplit=1)[0].lower() == text_argument(a, "first_word").lower()


def _placeholders(text: str, a: Arguments) -> bool:
    return len(_PLACEHOLDER.findall(text)) >= count_argument(a, "num_placeholders")


def _postscript(text: str, a: Arguments) -> bool:
    marker = text_argument(a, "postscript_marker").strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, a: Arguments) -> bool:
    starts = [line.lstrip()[:2] for line in text.splitlines()]
    count = sum(s[:1] == "-" or (s[:1] == "*" and s[1:] not in ("*", "")) for s in starts)
    return count == count_argument(a, "num_bullets")


def _constrained(text: str, a: Arguments) -> bool:
    return any(option in text for option in _OPTIONS)


def _highlights(text: str, a: Arguments) -> bool:
    spans = [*_HIGHLIGHT.findall(text), *_DOUBLE_HIGHLIGHT.findall(text)]
    return sum(bool(span.strip("*").strip()) for span in spans) >= count_argument(a, "num_highlights")


def _sections(text: str, a: Arguments) -> bool:
    marker = re.escape(text_argument(a, "section_spliter").strip())
    return len(re.findall(rf"{marker}\s?\d+", text)) >= count_argument(a, "num_sections")


def _json(text: str, a: Arguments) -> bool:
    body = text.strip()
    for opening in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(opening)
    try:
        json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, a: Arguments) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and line[start:end].lstrip("<").rstrip(">").strip():
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
    return text.strip().strip('"').lower().endswith(text_argument(a, "end_phrase").strip().lower())


def _capital_words(text: str, a: Arguments) -> bool:
    count = sum(token.isupper() for token in tokens(text))
    return related(count, text_argument(a, "capital_relation"), count_argument(a, "capital_frequency"))


def _english_capital(text: str, a: Arguments) -> bool:
    return text.isupper() and language_is(text, "en")


def _english_lowercase(text: str, a: Arguments) -> bool:
    return text.islower() and language_is(text, "en")


def _no_comma(text: str, a: Arguments) -> bool:
    return "," not in text


def _quotation(text: str, a: Arguments) -> bool:
    body = text.strip()
    return len(body) > 1 and body[0] == body[-1] == '"'


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
