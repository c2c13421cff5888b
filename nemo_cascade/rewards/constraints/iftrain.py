"""The 29 training instruction types of IF-RLVR (IFBench-train, arXiv 2507.02833), by what their words ask of an answer.

They are disjoint from IFBench's test types: training on these doesn't contaminate that benchmark. They replace the
reference implementation (allenai/open-instruct, `IFEvalG`), whose code differs from its instructions' words in places.
"""

import re
from collections.abc import Mapping
from itertools import pairwise

from nemo_cascade.rewards.constraints.ifeval import letter_frequency
from nemo_cascade.rewards.constraints.text import (
    Arguments,
    Check,
    bare_word,
    blank_line_paragraphs,
    count_argument,
    count_word,
    divided_paragraphs,
    related,
    sentences,
    text_argument,
    tokens,
)

_BRACKETED = re.compile(r"\W*\[[^\[\]]+\]\W*")


def _word_once(text: str, a: Arguments) -> bool:
    return count_word(text, text_argument(a, "keyword")) == 1


def _word_count(text: str, a: Arguments) -> bool:
    count = count_word(text, text_argument(a, "keyword"))
    return related(count, text_argument(a, "relation"), count_argument(a, "frequency"))


def _exclude_word(text: str, a: Arguments) -> bool:
    return count_word(text, text_argument(a, "keyword")) == 0


def _no_consecutive_letters(text: str, a: Arguments) -> bool:
    starts = [next((char for char in word.lower() if char.isalnum()), "") for word in text.split()]
    # Words of signs alone are none; a digit is no letter of the alphabet, but stands between its neighbours.
    initials = [start for start in starts if start]
    return all(not (first + second).isalpha() or ord(second) - ord(first) != 1 for first, second in pairwise(initials))


def _palindrome(text: str, a: Arguments) -> bool:
    return any(len(word) > 1 and word == word[::-1] for word in map(str.lower, tokens(text)))


def _keyword_position(text: str, a: Arguments) -> bool:
    found, n, m = sentences(text), count_argument(a, "n"), count_argument(a, "m")
    if not 1 <= n <= len(found):
        return False
    sentence = tokens(found[n - 1])
    return 1 <= m <= len(sentence) and sentence[m - 1].lower() == text_argument(a, "keyword").strip().lower()


def _start_end(text: str, a: Arguments) -> bool:
    parts = text.split()
    return len(parts) > 1 and bare_word(parts[0]) == bare_word(parts[-1]) != "" and parts[-1][-1].isalnum()


def _letters(text: str, a: Arguments) -> bool:
    count = len(re.findall(r"[a-zA-Z]", text))
    return related(count, text_argument(a, "relation"), count_argument(a, "N"))


def _two_divided(text: str, a: Arguments) -> bool:
    parts = divided_paragraphs(text)
    return parts is not None and len(parts) == 2


def _two_paragraphs(text: str, a: Arguments) -> bool:
    return len(blank_line_paragraphs(text)) == 2


def _bare_words(text: str) -> list[str]:
    """Return what blanks part, without the signs around it; signs alone, such as an emoji, are no word."""
    return [word for part in text.split() if (word := bare_word(part))]


def _first_word_sentences(text: str, a: Arguments) -> bool:
    word = bare_word(text_argument(a, "first_word"))
    found = [words for sentence in sentences(text) if (words := _bare_words(sentence))]
    return bool(found) and all(words[0] == word for words in found)


def _first_word(text: str, a: Arguments) -> bool:
    return _bare_words(text)[:1] == [bare_word(text_argument(a, "first_word"))]


def _last_word_sentences(text: str, a: Arguments) -> bool:
    word = bare_word(text_argument(a, "last_word"))
    found = [words for sentence in sentences(text) if (words := _bare_words(sentence))]
    return bool(found) and all(words[-1] == word for words in found)


def _last_word(text: str, a: Arguments) -> bool:
    return _bare_words(text)[-1:] == [bare_word(text_argument(a, "last_word"))]


def _hyphenated_sentences(text: str, a: Arguments) -> bool:
    parts = text.strip().split("-")
    return len(parts) == len(sentences(text.replace("-", " "))) and all(p and p == p.strip() for p in parts)


def _square_brackets(text: str, a: Arguments) -> bool:
    parts = [part for part in text.split() if any(map(str.isalnum, part))]
    return bool(parts) and all(_BRACKETED.fullmatch(part) for part in parts)


def _wrapped_bigrams(text: str, a: Arguments) -> bool:
    parts = text.split()
    pairs = list(zip(parts[::2], parts[1::2], strict=False))
    return bool(pairs) and all(
        first.startswith("<<") and not first.endswith(">>") and _closed(second) and not second.startswith("<<")
        for first, second in pairs
    )


def _closed(word: str) -> bool:
    return word.rstrip(".,;:!?").endswith(">>")


def _copy(text: str, a: Arguments) -> bool:
    return text.strip().lower() == text_argument(a, "prompt_to_repeat").strip().lower()


def _copy_multiple(text: str, a: Arguments) -> bool:
    parts = text.split("******")
    return len(parts) == count_argument(a, "N") and all(_copy(part, a) for part in parts)


def _copy_span(text: str, a: Arguments) -> bool:
    """Compare with the span from the first to the last index, which the instruction includes."""
    span = text_argument(a, "prompt_to_repeat")[count_argument(a, "n_start") : count_argument(a, "n_end") + 1]
    return text.strip().lower() == span.strip().lower()


def _repeat_phrase(text: str, a: Arguments) -> bool:
    """Find the phrase `small_n` times, each time with exactly one inner word replaced."""
    phrase, parts = (
        [re.sub(r"[.,;:!?\"]", "", word).lower() for word in words.split()]
        for words in (text_argument(a, "phrase"), text)
    )
    matches = 0
    for start in range(len(parts) - len(phrase) + 1):
        window = parts[start : start + len(phrase)]
        if window[0] == phrase[0] and window[-1] == phrase[-1]:
            matches += sum(x != y for x, y in zip(window, phrase, strict=True)) == 1
    return matches == count_argument(a, "small_n")


def _no_dot(text: str, a: Arguments) -> bool:
    return "." not in text


def _no_exclamation(text: str, a: Arguments) -> bool:
    return not any(mark in text for mark in "!！‼")


def _lowercase_words(text: str, a: Arguments) -> bool:
    return sum(token.islower() for token in tokens(text)) <= count_argument(a, "N")


def _composition(text: str, a: Arguments) -> bool:
    parts = divided_paragraphs(text)
    if parts is None or len(parts) != 3:
        return False
    counts = [[len(tokens(sentence)) for sentence in sentences(part)] for part in parts]
    return all(count == [count_argument(a, "n_words")] * count_argument(a, "n_sent") for count in counts)


def _unique_words(text: str, a: Arguments) -> bool:
    found = [token.lower() for token in tokens(text)]
    return len(found) == len(set(found))


def _increment_words(text: str, a: Arguments) -> bool:
    counts = [count_word(text, text_argument(a, name)) for name in ("keyword1", "keyword2")]
    return counts == [1, 2]


IFTRAIN: Mapping[str, Check] = {
    "keywords:word_once": _word_once,
    "keywords:word_count_different_numbers": _word_count,
    "keywords:exclude_word_harder": _exclude_word,
    "keywords:no_adjacent_consecutive": _no_consecutive_letters,
    "keywords:palindrome": _palindrome,
    "keywords:keyword_specific_position": _keyword_position,
    "keywords:start_end": _start_end,
    "letters:letter_counting": _letters,
    "letters:letter_counting2": letter_frequency,
    "paragraphs:paragraphs": _two_divided,
    "paragraphs:paragraphs2": _two_paragraphs,
    "first_word:first_word_sent": _first_word_sentences,
    "first_word:first_word_answer": _first_word,
    "last_word:last_word_sent": _last_word_sentences,
    "last_word:last_word_answer": _last_word,
    "detectable_format:sentence_hyphens": _hyphenated_sentences,
    "detectable_format:square_brackets": _square_brackets,
    "detectable_format:bigram_wrapping": _wrapped_bigrams,
    "copy:copy": _copy,
    "copy:copying_simple": _copy,
    "copy:copying_multiple": _copy_multiple,
    "copy:repeat_phrase": _repeat_phrase,
    "new:copy_span_idx": _copy_span,
    "punctuation:punctuation_dot": _no_dot,
    "punctuation:punctuation_exclamation": _no_exclamation,
    "count:lowercase_counting": _lowercase_words,
    "count:counting_composition": _composition,
    "count:count_unique": _unique_words,
    "count:count_increment_word": _increment_words,
}
