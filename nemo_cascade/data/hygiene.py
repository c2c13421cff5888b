"""Find the prompts of one set in another: exactly the same, nearly the same, or in part.

The set that is searched for (RL's, a suite's) is held in memory; the other one (SFT's, millions of rows) streams by,
file by file, on as many processes as there are cores.

Shapes: N prompts searched for, B bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from nemo_cascade.config.hygiene import HygieneConfig
from nemo_cascade.config.stage import DedupConfig
from nemo_cascade.data.decontaminate import NgramIndex, PromptText, read_prompts
from nemo_cascade.data.dedup import band_hashes, near_signatures
from nemo_cascade.data.parallel import available_cores, map_processes
from nemo_cascade.data.schemas import schema_of
from nemo_cascade.data.sources import data_files, decode_row, read_raw
from nemo_cascade.data.words import UInt64, WordHashes, conversation_text, ngram_hashes, row_prompt, text_hash

How = Literal["exact", "near", "ngram"]

_CHUNK = 4096
_SHINGLE_WORDS = 3
# Most prompts of one band that a text is compared with: a template's are all alike.
_MOST_COMPARED = 8
# Below so much data, starting processes takes longer than reading it here.
_WORTH_PROCESSES_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Where a set's rows lie, and how they become ours.

    Attributes:
        path: file or folder.
        schema: name of their mapping.
        columns: overrides of it, (field, column).
        screened: evaluation files; a row that shares `screened_ngram` words in a row with them is dropped before it is
            trained on (an SFT stage's decontamination), so it is passed over here.
        screened_ngram: see there.
    """

    path: str
    schema: str = "own"
    columns: tuple[tuple[str, str], ...] = ()
    screened: tuple[str, ...] = ()
    screened_ngram: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A prompt that is also in another set.

    Attributes:
        prompt: place of the prompt that was searched for, `file:line`.
        where: place of the row that it was found in.
        how: exactly, nearly, or by a run of words.
    """

    prompt: str
    where: str
    how: How


@dataclass(frozen=True, slots=True)
class _Work:
    searched_for: PromptRows
    within: PromptRows
    rules: HygieneConfig


def find_prompts(searched_for: PromptRows, within: PromptRows, rules: HygieneConfig) -> list[Found]:
    """Return the rows of one set in which prompts of another are found, in file order; each row with one prompt."""
    files = data_files(within.path)
    work = [_Work(searched_for, replace(within, path=str(file)), rules) for file in files]
    large = sum(file.stat().st_size for file in files) >= _WORTH_PROCESSES_BYTES
    parts = dict(map_processes(_search, work, available_cores() if large else 1))
    return [found for file in files for found in parts[str(file)]]


def count_prompts(searched_for: PromptRows, rules: HygieneConfig) -> int:
    """Return the number of prompts of a set."""
    return len(_index(searched_for, rules).prompts)


class PromptIndex:
    """Prompts that are searched for."""

    def __init__(self, prompts: Sequence[PromptText], rules: HygieneConfig) -> None:
        self.prompts, self._rules, self._words = list(prompts), rules, WordHashes()
        self._exact: dict[int, int] = {}
        for number, prompt in enumerate(self.prompts):
            self._exact.setdefault(text_hash(prompt.text), number)
        self._long = [i for i, p in enumerate(self.prompts) if len(self._words.of(p.text)) >= rules.min_words]
        texts = [self.prompts[i] for i in self._long]
        self._ngrams = NgramIndex(texts, rules.ngram)
        self._shingles = [self._shingles_of(p.text) for p in texts]
        self._near = DedupConfig(method="near", threshold=rules.near_threshold, shingle_words=_SHINGLE_WORDS)
        self._bands = self._bands_of([p.text for p in texts])
        self._band_order = np.argsort(self._bands, axis=1, kind="stable")
        self._bands = np.take_along_axis(self._bands, self._band_order, axis=1)

    def match(self, texts: Sequence[Sequence[str]]) -> list[tuple[int, How] | None]:
        """Look for the prompts in some texts, each given as the whole and perhaps parts that may be exactly the same.

        Returns:
            For each text the number of a prompt and how it was found, or None.
        """
        found: list[tuple[int, How] | None] = [self._quick(parts) for parts in texts]
        open_ = [i for i, hit in enumerate(found) if hit is None and self._long and self._is_long(texts[i][0])]
        if open_:
            bands = self._bands_of([texts[i][0] for i in open_])
            for column, i in enumerate(open_):
                found[i] = self._nearly(texts[i][0], bands[:, column])
        return found

    def _is_long(self, text: str) -> bool:
        return len(self._words.of(text)) >= self._rules.min_words

    def _quick(self, parts: Sequence[str]) -> tuple[int, How] | None:
        for part in parts:
            if (same := self._exact.get(text_hash(part))) is not None:
                return same, "exact"
        shared = self._ngrams.match(parts[0], parts[0]) if self._long and self._is_long(parts[0]) else None
        return None if shared is None else (self._long[shared], "ngram")

    def _nearly(self, text: str, bands: UInt64) -> tuple[int, How] | None:
        candidates: dict[int, None] = {}
        for band, value in enumerate(bands):
            begin = int(np.searchsorted(self._bands[band], value, side="left"))
            for at in range(begin, min(begin + _MOST_COMPARED, len(self._long))):
                if self._bands[band, at] == value != 0:
                    candidates[int(self._band_order[band, at])] = None
        mine = self._shingles_of(text)
        for number in candidates:
            theirs = self._shingles[number]
            common = len(np.intersect1d(mine, theirs, assume_unique=True))
            if common >= self._rules.near_threshold * (len(mine) + len(theirs) - common):
                return self._long[number], "near"
        return None

    def _bands_of(self, texts: Sequence[str]) -> UInt64:
        """Return the band hashes of texts, [B, texts]; 0 for what is too short to be compared."""
        return band_hashes(*near_signatures(texts, self._near), self._near)

    def _shingles_of(self, text: str) -> UInt64:
        return np.unique(ngram_hashes(self._words.of(text), _SHINGLE_WORDS))


def _search(work: _Work) -> tuple[str, list[Found]]:
    index, found = _index(work.searched_for, work.rules), []
    rows = _texts(work.within)
    while chunk := list(islice(rows, _CHUNK)):
        for (place, _), hit in zip(chunk, index.match([parts for _, parts in chunk]), strict=True):
            if hit is not None:
                found.append(Found(index.prompts[hit[0]].place, place, hit[1]))
    return work.within.path, found


def _texts(rows: PromptRows) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each row, and its prompt: as a whole, and turn by turn where it has several."""
    schema = schema_of(rows.schema, dict(rows.columns))
    screen = _screen(rows.screened, rows.screened_ngram) if rows.screened else None
    for raw in read_raw(rows.path):
        row, broken = decode_row(raw, schema)
        text = "" if broken else row_prompt(row)
        if not text.strip():
            continue
        messages = row.get("messages") or []
        if screen is not None and screen.match(conversation_text(messages), text) is not None:
            continue
        turns = [conversation_text([message], ("user",)) for message in messages]
        asked = [turn for turn in turns if turn.strip()]
        yield raw.place, [text, *(asked if len(asked) > 1 else [])]


# One at a time: a set is looked for in all others before the next is.
@lru_cache(maxsize=1)
def _index(rows: PromptRows, rules: HygieneConfig) -> PromptIndex:
    return PromptIndex([PromptText(parts[0], place) for place, parts in _texts(rows)], rules)


@lru_cache(maxsize=1)
def _screen(paths: tuple[str, ...], ngram: int) -> NgramIndex:
    return NgramIndex(read_prompts(Path(path) for path in paths), ngram)
