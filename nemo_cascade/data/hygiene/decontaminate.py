"""Find texts that share runs of words with evaluation prompts.

A prompt counts as seen in a text that holds any n words of it in a row; a prompt of fewer words, in a question that has
just these; one without any word, in a question of the same characters. Runs that many different prompts share are
their boilerplate ("put your final answer in ...") and left out, counted; who has no others is looked for as a whole.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from nemo_cascade.data.hygiene.words import WORDS_VERSION, UInt64, WordHashes, ngram_hashes, row_questions, text_hash
from nemo_cascade.data.rows.files import data_files
from nemo_cascade.data.rows.sources import Problems, mapped_row, read_raw

MOST_SHARED = 8
"""A run of words that more prompts than this share is boilerplate."""
# One look-up in a small table tells for most runs that no prompt holds them.
_TABLE_BITS = 24


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt of a set: its text, and where it is from (`file:line`)."""

    text: str
    place: str


class NgramIndex:
    """The runs of n words of some prompts.

    Attributes:
        n: words of a run.
        prompts: what was indexed.
        boilerplate: runs left out because many prompts share them.
    """

    def __init__(self, prompts: Sequence[PromptText], n: int) -> None:
        self.n, self.prompts, self._words = n, list(prompts), WordHashes()
        # Prompts that are found as a whole: by their words, or by their characters where they have none.
        self._whole: dict[bytes | int, int] = {}
        runs, owners = [], []
        different: dict[bytes | int, int] = {}
        for number, prompt in enumerate(prompts):
            hashes = self._words.of(prompt.text)
            whole = _as_whole(prompt.text, hashes)
            if different.setdefault(whole, number) != number:
                continue  # a prompt that stands in its file many times is no boilerplate
            runs.append(np.unique(ngram_hashes(hashes, n)))
            owners.append(np.full(len(runs[-1]), number))
        every, owner = np.concatenate([*runs, np.empty(0, np.uint64)]), np.concatenate([*owners, np.empty(0, np.int64)])
        self._runs, first, counts = np.unique(every, return_index=True, return_counts=True)
        kept = counts <= MOST_SHARED
        self.boilerplate = int((~kept).sum())
        self._runs, self._owner = self._runs[kept], owner[first[kept]].astype(np.int64)
        with_own = np.unique(owner[np.isin(every, self._runs)]).tolist()
        searched = set(with_own)
        self._whole = {whole: number for whole, number in different.items() if number not in searched}
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[self._slot(self._runs)] = True

    def match(self, text: str, asked: Sequence[str]) -> int | None:
        """Return a prompt that is seen in a text, or that is just one of its questions; None if there is none.

        Args:
            text: all of it.
            asked: its questions, together and each by itself (`words.as_asked`).
        """
        if (found := self.match_runs(ngram_hashes(self._words.of(text), self.n))) is not None:
            return found
        wholes = (self._whole.get(_as_whole(q, self._words.of(q))) for q in asked) if self._whole else ()
        return next((found for found in wholes if found is not None), None)

    def match_runs(self, runs: UInt64) -> int | None:
        """Return a prompt that has one of these runs of n words, hashed; None if there is none."""
        runs = runs[self._table[self._slot(runs)]]
        if len(runs) and len(self._runs):
            at = np.minimum(np.searchsorted(self._runs, runs), len(self._runs) - 1)
            hits = at[self._runs[at] == runs]
            if len(hits):
                return int(self._owner[hits[0]])
        return None

    @staticmethod
    def _slot(runs: UInt64) -> NDArray[np.int64]:
        return (runs & np.uint64((1 << _TABLE_BITS) - 1)).astype(np.int64)


def _as_whole(text: str, word_hashes: UInt64) -> bytes | int:
    return word_hashes.tobytes() if len(word_hashes) else text_hash(text)


def read_prompts(paths: Iterable[str | Path]) -> list[PromptText]:
    """Read the prompts of evaluation sets: user turns, or a column of a usual name (`words.row_questions`).

    Raises:
        DataError: rows without a prompt; counts all and names the first twenty.
    """
    prompts, problems = [], Problems()
    for path in paths:
        for file in data_files(path):
            for raw in read_raw(file):
                row, broken = mapped_row(raw)
                text = "" if broken else "\n".join(row_questions(row))
                if broken or not text.strip():
                    problems.add(f"{raw.place}: {broken or 'no prompt'}")
                else:
                    prompts.append(PromptText(text, raw.place))
    problems.refuse("rows of evaluation sets have no prompt", "give files with `messages`, or a column `prompt`")
    return prompts


def prompts_key(prompts: Sequence[PromptText], ngrams: Sequence[int]) -> str:
    """Hash everything that looking for these prompts depends on."""
    hasher = blake3(json.dumps([WORDS_VERSION, MOST_SHARED, list(ngrams)]).encode())
    for prompt in prompts:
        hasher.update(json.dumps([prompt.text, prompt.place]).encode())
    return hasher.hexdigest()[:32]
