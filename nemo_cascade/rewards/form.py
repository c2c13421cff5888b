"""Guards on a response's form: thinking block, language, repetition. Each scores 1 (good) or 0."""

import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, ClassVar, Literal

from nemo_cascade.rewards.language import foreign_text
from nemo_cascade.rewards.response import THINK_CLOSE, THINK_OPEN, Response, is_visible, split_response
from nemo_cascade.rewards.verifier import Golden, Score

# Control tokens of the families' templates: <|eot_id|> and the like in ASCII and in DeepSeek's wide bars, Nemotron's
# <SPECIAL_12> and <extra_id_1>, Mistral's and Llama 2's [INST], Gemma's turns, GLM's prefix, MiniMax's brackets, Seed's
# names, sentencepiece's own, bytes and unused places of a vocabulary.
_SPECIAL = re.compile(
    r"<\|[A-Za-z][\w\- ]{2,}\|>|<｜[^<>\n]{1,40}｜>|<SPECIAL_\d+>|<extra_id_\d+>|</?(?:start|end)_of_turn>|"
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>|\[gMASK\]|<(?:sop|eop|bos|eos|pad|unk|eod|eot)>|"
    r"\]~!?b[\[\]]|\[e~\[|<seed:\w{1,20}>|<0x[0-9A-F]{2}>|<(?:reserved_|unused)\d+>|\[unused\d+\]"
)
_SENTENCE = re.compile(r"<(/?)s>")
# A word, or one sign of a script that writes none apart.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_LONGEST_WORD, _PIECE = 48, 4  # characters; a longer word is cut into pieces
_NUMBER, _LETTERS = re.compile(r"\d+"), re.compile(r"[^\W\d_]{2}|[\u3040-\u30ff\u3400-\u9fff]")
_WORDS_TO_A_NUMBER = 4  # of a text that a number counts; with fewer, the numbers are the text


class FormatVerifier:
    """Score 1 if the response has the form of its mode (arXiv 2512.13607, section 3.1.2), else 0.

    think: `<think>`, reasoning, `</think>`, an answer; each tag once, nothing before the first. The opening tag may be
    missing, where the prompt already ends in it. no_think: no tag at all, an answer. Neither holds control tokens of
    any family (a pair `<s>...</s>` is HTML). What a reader can't see is no answer and no reasoning.

    Args:
        mode: think, no_think, or row: the row's field `mode`, what a prompt is asked in (`prompts/prompt_sets.py`).
        empty_thought: whether a thinking block without anything in it has the form of thinking. In the paper's modes it
            is the form of not thinking, so a policy could leave its mode by it; TRL's `think_format_reward` allows it.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden("<think>\na</think>\nb", 1.0),
        Golden("a</think>\nb", 1.0),
        Golden("<think>a", 0.0),
        Golden("<think>a</think>  ", 0.0),
        Golden("<think>a</think>\u200b", 0.0),
        Golden("<think>\n</think>b", 0.0),
        Golden("<think>a</think>b</think>c", 0.0),
        Golden("b <think>a</think>c", 0.0),
        Golden("<think>a<think>b</think>c", 0.0),
        Golden("b", 0.0),
        Golden("<think>a</think>b<|im_end|><|im_start|>user", 0.0),
        Golden("<think>a</think>b</s>", 0.0),
    )

    def __init__(self, mode: Literal["think", "no_think", "row"] = "row", empty_thought: bool = False) -> None:
        self._mode, self._empty_thought = mode, empty_thought

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        mode = record.get("mode", "think") if self._mode == "row" else self._mode
        problem = format_problem(response.text, thinking=mode == "think", empty_thought=self._empty_thought)
        return Score(float(problem is None), problem or "")


def format_problem(text: str, thinking: bool, empty_thought: bool = False) -> str | None:
    """Say what is wrong with a response's form, or None."""
    opened, closed = text.count(THINK_OPEN), text.count(THINK_CLOSE)
    if has_control_tokens(text):
        return "control tokens in the text"
    if not thinking:
        return "a thinking block" if opened or closed else None if is_visible(text) else "an empty answer"
    if closed != 1:
        return f"{closed} times {THINK_CLOSE}"
    if opened > 1 or (opened == 1 and not text.lstrip().startswith(THINK_OPEN)):
        return f"{THINK_OPEN} not once and first"
    parts = split_response(text.lstrip())
    if not empty_thought and not is_visible(parts.reasoning):
        return "an empty thought"
    return None if is_visible(parts.answer or "") else "an empty answer"


def has_control_tokens(text: str) -> bool:
    """Tell whether a text holds a token that only a template may write."""
    if _SPECIAL.search(text):
        return True
    depth = 0
    for match in _SENTENCE.finditer(text):
        depth += -1 if match[1] else 1
        if depth < 0:
            return True
    return depth > 0


def obeys_mode(text: str, mode: Literal["think", "no_think"]) -> bool:
    """Tell whether a response has the form of the mode that was asked for, also where it was cut off by its length."""
    return format_problem(text, thinking=mode == "think") is None


class LanguageVerifier:
    """Score 1 if no letter of a foreign script stands in the response, else 0 (arXiv 2512.13607, section 4.3).

    Args:
        language: what the response must be written in, ISO 639-1; a row's field `response_language` goes before it.
        part: where to look: all, reasoning or answer.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden("<think>let me see</think>It is α + β = ½, naïve café.", 1.0),
        Golden("<think>让我想想</think>It is 4.", 0.0),
        Golden("It is 4, да.", 0.0),
        Golden("Числа: 4", 1.0, {"response_language": "ru"}),
    )

    def __init__(self, language: str = "en", part: Literal["all", "reasoning", "answer"] = "all") -> None:
        self._language, self._part = language, part

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        parts = split_response(response.text)
        text = {"all": response.text, "reasoning": parts.reasoning, "answer": parts.answer or ""}[self._part]
        language = str(record.get("response_language") or self._language)
        foreign = foreign_text(text, language, quoted=prompt_text(record))
        return Score(float(foreign is None), f"foreign text: {foreign}" if foreign else "")


class RepetitionVerifier:
    """Score 0 if the response got caught in a loop, else 1. No paper prints a rule; this is the house's.

    A loop need not be literal: where words carry a text and a number counts it, as in `Wait, let me check that once
    more 17.`, sequences that differ in the number only are the same. Rows of a table or of a case distinction, where
    numbers are half of the words, are not. Where no blanks part words (Chinese, `hahaha`), signs stand for them.

    Args:
        words: length of the word sequences that are compared.
        max_share: largest share of such sequences that may have occurred before.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden("a quick brown fox jumps over the lazy dog and runs away", 1.0),
        Golden("wait, let me check that once more. " * 50, 0.0),
        Golden("".join(f"Hmm, that can't be right, so try it again {n}. " for n in range(60)), 0.0),
        Golden("".join(f"| {n} | {n * n} | {n**3} |\n" for n in range(60)), 1.0),
        Golden("ha" * 500, 0.0),
    )

    def __init__(self, words: int = 8, max_share: float = 0.5) -> None:
        self._words, self._max_share = words, max_share

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0; see `Verifier.verify`."""
        share = repeated_share(response.text, self._words)
        return Score(float(share <= self._max_share), f"{share:.0%} of the text repeats")


def repeated_share(text: str, length: int) -> float:
    """Return the share in [0, 1] of word sequences of a length that occurred earlier in the text."""
    words = list(_pieces(text))
    total = len(words) - length + 1
    if total < 1:
        return 0.0
    counted = [_NUMBER.sub("#", word) for word in words]
    numbers = [0, *accumulate(not _LETTERS.search(word) for word in words)]
    seen = set()
    for start in range(total):
        few = numbers[start + length] - numbers[start] <= length // _WORDS_TO_A_NUMBER
        seen.add(tuple((counted if few else words)[start : start + length]))
    return 1.0 - len(seen) / total


def _pieces(text: str) -> Iterator[str]:
    """Yield the words of a text, and what stands for words where no blanks part them."""
    for match in _WORD.finditer(text):
        word = match.group()
        if len(word) <= _LONGEST_WORD:
            yield word
        else:
            yield from (word[at : at + _PIECE] for at in range(0, len(word), _PIECE))


def prompt_text(record: Mapping[str, Any]) -> str:
    """Return the text of a row's messages (or its `prompt`), which a response may quote in any language."""
    messages = record.get("messages")
    if isinstance(messages, list):
        return "\n".join(str(m.get("content", "")) for m in messages if isinstance(m, Mapping))
    return str(record.get("prompt") or "")
