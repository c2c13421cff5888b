"""Where the code of IFEval's reference implementation decides otherwise than its instructions' words.

A score that is to be compared with published ones needs these (arXiv 2311.07911; google-research
`instruction_following_eval/instructions.py`, which IF-RLVR and NeMo Gym took over).
"""

import re
from collections.abc import Mapping

from nemo_cascade.rewards.constraints.ifeval import IFEVAL, json_value
from nemo_cascade.rewards.constraints.spoken import reference_language_is
from nemo_cascade.rewards.constraints.text import (
    Arguments,
    Check,
    count_argument,
    related,
    text_argument,
    texts_argument,
    words,
)

_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")


def _count(text: str, keyword: str) -> int:
    """Count a keyword, within longer words too."""
    return len(re.findall(re.escape(keyword.strip()), text, flags=re.IGNORECASE))


def _existence(text: str, a: Arguments) -> bool:
    return all(_count(text, keyword) for keyword in texts_argument(a, "keywords"))


def _frequency(text: str, a: Arguments) -> bool:
    count = _count(text, text_argument(a, "keyword"))
    return related(count, text_argument(a, "relation"), count_argument(a, "frequency"))


def _forbidden(text: str, a: Arguments) -> bool:
    forbidden = texts_argument(a, "forbidden_words")
    return not any(re.search(rf"\b{re.escape(word)}\b", text, flags=re.IGNORECASE) for word in forbidden)


def _response_language(text: str, a: Arguments) -> bool:
    return reference_language_is(text, text_argument(a, "language"))


def _number_paragraphs(text: str, a: Arguments) -> bool:
    parts = _DIVIDER.split(text)
    inner_empty = any(not part.strip() for part in parts[1:-1])
    count = len(parts) - sum(not part.strip() for part in {0: parts[0], len(parts) - 1: parts[-1]}.values())
    return not inner_empty and count == count_argument(a, "num_paragraphs")


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
    return len(re.findall(r"\[[^\]\n]*\]", text)) >= count_argument(a, "num_placeholders")


def _bullets(text: str, a: Arguments) -> bool:
    starts = [line.lstrip()[:2] for line in text.splitlines()]
    count = sum(s[:1] == "-" or (s[:1] == "*" and s[1:] not in ("*", "")) for s in starts)
    return count == count_argument(a, "num_bullets")


def _highlights(text: str, a: Arguments) -> bool:
    spans = [*_HIGHLIGHT.findall(text), *_DOUBLE_HIGHLIGHT.findall(text)]
    return sum(bool(span.strip("*").strip()) for span in spans) >= count_argument(a, "num_highlights")


def _json(text: str, a: Arguments) -> bool:
    return json_value(text) is not NotImplemented


def _end(text: str, a: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(text_argument(a, "end_phrase").strip().lower())


def _english_capital(text: str, a: Arguments) -> bool:
    return text.isupper() and reference_language_is(text, "en")


def _english_lowercase(text: str, a: Arguments) -> bool:
    return text.islower() and reference_language_is(text, "en")


def _no_comma(text: str, a: Arguments) -> bool:
    return "," not in text


def _quotation(text: str, a: Arguments) -> bool:
    body = text.strip()
    return len(body) > 1 and body[0] == body[-1] == '"'


IFEVAL_REFERENCE: Mapping[str, Check] = {
    **IFEVAL,
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "language:response_language": _response_language,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:json_format": _json,
    "startend:end_checker": _end,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
    "startend:quotation": _quotation,
}
