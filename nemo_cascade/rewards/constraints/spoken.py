"""Tell which language a text is in: by its script where that decides, by langdetect where it doesn't."""

import re
from functools import cache
from typing import Any

from nemo_cascade.rewards.language import script_of

_MAX_CHARS = 20_000
_MAX_LETTERS = 2_000
# Languages that nobody else's script looks like (langdetect takes traditional characters for Korean).
_OWN_SCRIPT = {
    "zh": {"CJK"}, "ja": {"HIRAGANA", "KATAKANA"}, "ko": {"HANGUL"}, "he": {"HEBREW"}, "el": {"GREEK"}, "th": {"THAI"},
    "bn": {"BENGALI"}, "ta": {"TAMIL"}, "te": {"TELUGU"}, "kn": {"KANNADA"}, "ml": {"MALAYALAM"}, "gu": {"GUJARATI"},
    "pa": {"GURMUKHI"}, "ka": {"GEORGIAN"}, "hy": {"ARMENIAN"}, "am": {"ETHIOPIC"}, "km": {"KHMER"}, "lo": {"LAO"},
    "si": {"SINHALA"}, "my": {"MYANMAR"},
}  # fmt: skip
_LEAST_SHARE = 0.5
_JAPANESE_KANA = 0.1  # share of kana from which a text with Chinese characters is Japanese
# Up to so many words a text is too short for langdetect to be sure; any language that it finds likely will do.
_SHORT_WORDS, _SHORTEST_WORDS = 20, 6
_ENGLISH = frozenset({
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been", "but",
    "buy", "by", "can", "come", "could", "day", "did", "do", "does", "first", "for", "from", "get", "give", "go",
    "good", "great", "had", "has", "have", "he", "hello", "her", "here", "hi", "him", "his", "how", "i", "if", "in",
    "into", "is", "it", "its", "just", "know", "like", "look", "make", "me", "more", "most", "much", "my", "new",
    "no", "not", "now", "of", "off", "ok", "on", "one", "only", "or", "other", "our", "out", "over", "please", "see",
    "she", "sorry", "so", "some", "take", "than", "thank", "thanks", "that", "the", "their", "them", "then", "there",
    "these", "they", "this", "time", "to", "today", "two", "up", "us", "use", "very", "want", "was", "way", "we",
    "welcome", "well", "were", "what", "when", "where", "which", "who", "why", "will", "with", "work", "would",
    "year", "yes", "you", "your",
})  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


@cache
def _factory() -> Any:
    from langdetect import detector_factory

    detector_factory.DetectorFactory.seed = 0  # it draws random samples of the text: the same ones every time
    detector_factory.init_factory()
    return detector_factory._factory


def detected(text: str) -> dict[str, float] | None:
    """Return langdetect's likely languages with their probabilities, None where it finds nothing to go by."""
    from langdetect import LangDetectException

    detector = _factory().create()
    detector.append(text[:_MAX_CHARS])
    try:
        return {guess.lang: float(guess.prob) for guess in detector.get_probabilities()}
    except LangDetectException:
        return None


def reference_language_is(text: str, code: str) -> bool:
    """Tell whether langdetect's first guess is a language (ISO 639-1 code), as IFEval's reference does.

    A text without any letters has no language; it counts as following.
    """
    likely = detected(text)
    return likely is None or max(likely, key=lambda lang: likely[lang], default="") == code


def language_is(text: str, code: str) -> bool:
    """Tell whether a text is in a language (ISO 639-1 code; a region behind it doesn't count).

    Small letters are looked at, for langdetect takes capitals of any language for German or English
    (https://github.com/Mimino666/langdetect/issues/74). A text of few words is in any language that is likely
    (https://github.com/Mimino666/langdetect/issues/52), a longer one in the likeliest. A text without any letters has
    no language; as in IFEval, it counts as following.
    """
    code = code.lower().partition("-")[0]
    letters = [script for char in text[:_MAX_CHARS] if (script := script_of(char)) is not None][:_MAX_LETTERS]
    if not letters:
        return True
    own = {"iw": "he"}.get(code, code)
    if own in _OWN_SCRIPT:
        share = sum(script in _OWN_SCRIPT[own] for script in letters) / len(letters)
        kana = sum(script in _OWN_SCRIPT["ja"] for script in letters) / len(letters)
        if own == "ja":
            return kana >= _JAPANESE_KANA
        return share >= _LEAST_SHARE and not (own == "zh" and kana >= _JAPANESE_KANA)
    small = text[:_MAX_CHARS].lower()
    words = _WORD.findall(small)
    if code == "en" and len(words) <= _SHORTEST_WORDS and 2 * sum(word in _ENGLISH for word in words) >= len(words) > 0:
        return True
    likely = detected(small)
    if likely is None:
        return True
    return (
        code in likely if len(words) < _SHORT_WORDS else max(likely, key=lambda lang: likely[lang], default="") == code
    )
