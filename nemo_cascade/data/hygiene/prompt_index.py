"""The prompts of a set, to be found in rows of another: exactly the same, nearly the same, or in part.

Runs of words that more than eight prompts of a set share are its template, and count for nothing in what is near or in
part the same; a prompt that has fewer than 25 words of its own besides is found where it is exactly the same.

Shapes: B bands, R rows of a chunk.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.config.hygiene import HygieneConfig
from nemo_cascade.config.stages.sft_data import DedupConfig
from nemo_cascade.data.hygiene.decontaminate import MOST_SHARED, NgramIndex, PromptText
from nemo_cascade.data.hygiene.dedup import SHINGLE_WORDS, band_hashes, min_hashes
from nemo_cascade.data.hygiene.words import UInt64, WordHashes, ngram_hashes, text_hash, words

How = Literal["exact", "near", "ngram"]
Hit = tuple[int, How]

# Prompts of fewer words of their own are only found where they are exactly the same.
_MIN_WORDS = 25
# Share of common runs of three words (Jaccard similarity) from which on longer prompts are nearly the same.
_NEAR = DedupConfig(method="near", threshold=0.4)
# What a report says of the two.
LIMITS = {"min_words": _MIN_WORDS, "near_threshold": _NEAR.threshold}
# Most prompts of one band that a row is compared with.
_MOST_COMPARED = 8


@dataclass(frozen=True, slots=True)
class Row:
    """A row's prompt in hashes.

    Attributes:
        place: `file:line`.
        exact: of the whole, and of each turn where it has several.
        runs: of its runs of `ngram` words.
        shingles: of its different runs of three words, sorted.
    """

    place: str
    exact: tuple[int, ...]
    runs: UInt64
    shingles: UInt64


def hashed_row(place: str, parts: list[str], hashes: WordHashes, ngram: int) -> Row:
    """Hash a row's prompt, given as the whole and perhaps its turns."""
    found = hashes.of(parts[0])
    return Row(place, tuple(map(text_hash, parts)), ngram_hashes(found, ngram), _shingles(found))


def row_bands(rows: Sequence[Row]) -> UInt64:
    """Hash the bands of rows, [B, R]; 0 for one with too few shingles to be near a long prompt of any set."""
    least = _least_shingles()
    enough = [row.shingles if len(row.shingles) >= least else row.shingles[:0] for row in rows]
    return _bands(enough)


class PromptIndex:
    """The prompts of a set, to be found in rows.

    Attributes:
        count: prompts.
        places: of the different ones.
        exact_only: different ones of too few words of their own to be found but where they are exactly the same.
    """

    def __init__(self, prompts: Iterable[PromptText], rules: HygieneConfig) -> None:
        self.count, self._least, enough = 0, _least_shingles(), _long_shingles()
        self._exact: dict[int, int] = {}
        different: list[PromptText] = []
        for prompt in prompts:
            self.count += 1
            if (exact := text_hash(prompt.text)) not in self._exact:
                self._exact[exact] = len(different)
                different.append(prompt)
        self.places = [prompt.place for prompt in different]
        self._words = WordHashes()
        shingles = [_shingles(self._words.of(prompt.text)) for prompt in different]
        every, counts = np.unique(np.concatenate([*shingles, np.empty(0, np.uint64)]), return_counts=True)
        self._template = every[counts > MOST_SHARED]
        shingles = [self._own(mine) for mine in shingles]
        self._long = [i for i, mine in enumerate(shingles) if len(mine) >= enough]
        self.exact_only = len(different) - len(self._long)
        self._shingles = [shingles[i] for i in self._long]
        own = [(piece, i) for i in self._long for piece in self._own_pieces(different[i].text)]
        self._ngrams = NgramIndex([PromptText(piece, self.places[i]) for piece, i in own], rules.ngram)
        self._piece_of = [i for _, i in own]
        self._threshold = _NEAR.threshold
        bands = _bands(self._shingles)
        self._band_order = np.argsort(bands, axis=1, kind="stable")
        self._bands = np.take_along_axis(bands, self._band_order, axis=1)

    def match(self, rows: Sequence[Row], bands: UInt64) -> list[Hit | None]:
        """Look for the prompts in some rows.

        Args:
            rows: R rows.
            bands: [B, R], their `row_bands`.

        Returns:
            For each row the number of a different prompt and how it was found, or None.
        """
        found: list[Hit | None] = [self._quick(row) for row in rows]
        if not self._long:
            return found
        own = {i: self._own(row.shingles) for i, row in enumerate(rows) if found[i] is None}
        own = {i: mine for i, mine in own.items() if len(mine) >= self._least}
        if changed := [i for i, mine in own.items() if len(mine) < len(rows[i].shingles)]:
            bands = bands.copy()
            bands[:, changed] = _bands([own[i] for i in changed])
        for i, candidates in self._candidates(bands[:, list(own)], list(own)).items():
            found[i] = self._nearly(own[i], candidates)
        return found

    def _quick(self, row: Row) -> Hit | None:
        for exact in row.exact:
            if (same := self._exact.get(exact)) is not None:
                return same, "exact"
        shared = self._ngrams.match_runs(row.runs) if self._long else None
        return None if shared is None else (self._piece_of[shared], "ngram")

    def _candidates(self, bands: UInt64, rows: list[int]) -> dict[int, list[int]]:
        """Return for rows that have a band in common with long prompts these prompts, each once."""
        found: dict[int, dict[int, None]] = {}
        for known, order, values in zip(self._bands, self._band_order, bands, strict=True):
            begins = np.searchsorted(known, values)
            for column in np.flatnonzero(known[np.minimum(begins, len(known) - 1)] == values).tolist():
                begin = int(begins[column])
                alike = known[begin : begin + _MOST_COMPARED] == values[column]
                same = order[begin : begin + _MOST_COMPARED][alike]
                found.setdefault(rows[column], {}).update(dict.fromkeys(same.tolist()))
        return {row: list(prompts) for row, prompts in found.items()}

    def _nearly(self, mine: UInt64, candidates: list[int]) -> Hit | None:
        for number in candidates:
            theirs = self._shingles[number]
            common = len(np.intersect1d(mine, theirs, assume_unique=True))
            if common >= self._threshold * (len(mine) + len(theirs) - common):
                return self._long[number], "near"
        return None

    def _own(self, shingles: UInt64) -> UInt64:
        """Leave out what is the set's template."""
        return np.asarray(shingles[~self._is_template(shingles)], np.uint64)

    def _own_pieces(self, text: str) -> Iterator[str]:
        """Yield the stretches of a text without any run of words of the template, in words."""
        found = words(text)
        template = self._is_template(ngram_hashes(self._words.of(text), SHINGLE_WORDS))
        borders = np.flatnonzero(np.diff(np.concatenate([[True], template, [True]]).astype(np.int8)))
        for begin, end in borders.reshape(-1, 2).tolist():
            yield " ".join(found[begin : end + SHINGLE_WORDS - 1])

    def _is_template(self, shingles: UInt64) -> NDArray[np.bool_]:
        if not len(self._template):
            return np.zeros(len(shingles), bool)
        at = np.minimum(np.searchsorted(self._template, shingles), len(self._template) - 1)
        return np.asarray(self._template[at] == shingles, bool)


def _shingles(word_hashes: UInt64) -> UInt64:
    return np.unique(ngram_hashes(word_hashes, SHINGLE_WORDS))


def _least_shingles() -> int:
    """Return how many shingles a row needs to reach the threshold with the shortest of the long prompts."""
    return max(1, int(np.ceil(_NEAR.threshold * _long_shingles())))


def _long_shingles() -> int:
    """Return how many shingles of its own make a prompt a long one."""
    return max(1, _MIN_WORDS - SHINGLE_WORDS + 1)


def _bands(shingles: Sequence[UInt64]) -> UInt64:
    """Return the band hashes of sets of shingles, [B, sets]; 0 for an empty one, which is near nothing."""
    known: NDArray[np.bool_] = np.array([len(mine) > 0 for mine in shingles], bool)
    return band_hashes(min_hashes(shingles), known, _NEAR)
