"""Find the prompts of some sets in other sets: exactly the same, nearly the same, or in part.

The sets that are searched for (RL's, the suites') are held in memory, as hashes. All others (SFT's, millions of rows)
stream by once, file by file, on as many processes as there are cores; a row is compared with all sets at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

from nemo_cascade.config.hygiene import HygieneConfig
from nemo_cascade.data.hygiene.decontaminate import NgramIndex, PromptText, read_prompts
from nemo_cascade.data.hygiene.prompt_index import How, PromptIndex, hashed_row, row_bands
from nemo_cascade.data.hygiene.words import WordHashes, as_asked, conversation_text, row_questions
from nemo_cascade.data.rows.files import data_files
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.data.rows.sources import decode_row, read_raw
from nemo_cascade.processes.parallel import available_cores, map_processes

_CHUNK = 4096
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
class Overlap:
    """What two sets share.

    Attributes:
        prompts: prompts of the set that was searched for.
        exact_only: how many different ones of them could only be found where they are exactly the same.
        found: rows of the other in which they are found, in file order; each row with one prompt.
    """

    prompts: int
    exact_only: int
    found: list[Found]


@dataclass(frozen=True, slots=True)
class Search:
    """Sets whose prompts are looked for in the rows of another."""

    searched_for: tuple[PromptRows, ...]
    within: PromptRows


@dataclass(frozen=True, slots=True)
class _Work:
    search: Search
    file: str
    rules: HygieneConfig


def find_prompts(searches: Sequence[Search], rules: HygieneConfig) -> list[list[Overlap]]:
    """Look for prompts in other sets; every set is read once to be searched through.

    Returns:
        For each search and each of its sets what they share.
    """
    files = [data_files(search.within.path) for search in searches]
    work = [_Work(s, str(file), rules) for s, mine in zip(searches, files, strict=True) for file in mine]
    large = sum(Path(item.file).stat().st_size for item in work) >= _WORTH_PROCESSES_BYTES
    parts = dict(map_processes(_search, work, available_cores() if large else 1))
    _index.cache_clear()
    _screen.cache_clear()
    by_file = [[parts[_Work(s, str(file), rules)] for file in mine] for s, mine in zip(searches, files, strict=True)]
    return [
        [
            Overlap(of_set[0].prompts, of_set[0].exact_only, [hit for part in of_set for hit in part.found])
            for of_set in zip(*mine, strict=True)
        ]
        for mine in by_file
    ]


# All sets that are searched for, each read once in a process.
@cache
def _index(rows: PromptRows, rules: HygieneConfig) -> PromptIndex:
    return PromptIndex((PromptText(parts[0], place) for place, parts in _texts(rows)), rules)


def _search(work: _Work) -> tuple[_Work, list[Overlap]]:
    indices = [_index(rows, work.rules) for rows in work.search.searched_for]
    overlaps = [Overlap(index.count, index.exact_only, []) for index in indices]
    hashes, texts = WordHashes(), _texts(replace(work.search.within, path=work.file))
    while chunk := [hashed_row(place, parts, hashes, work.rules.ngram) for place, parts in islice(texts, _CHUNK)]:
        bands = row_bands(chunk)
        for overlap, index in zip(overlaps, indices, strict=True):
            for row, hit in zip(chunk, index.match(chunk, bands), strict=True):
                if hit is not None:
                    overlap.found.append(Found(index.places[hit[0]], row.place, hit[1]))
    return work, overlaps


def _texts(rows: PromptRows) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each row, and its prompt: as a whole, and turn by turn where it has several."""
    schema = schema_of(rows.schema, dict(rows.columns))
    screen = _screen(rows.screened, rows.screened_ngram) if rows.screened else None
    for raw in read_raw(rows.path):
        row, broken = decode_row(raw, schema)
        asked = [] if broken else as_asked(row_questions(row))
        if not asked or not asked[0].strip():
            continue
        if screen is not None and screen.match(conversation_text(row.get("messages") or ()), asked) is not None:
            continue
        yield raw.place, asked


@cache
def _screen(paths: tuple[str, ...], ngram: int) -> NgramIndex:
    return NgramIndex(read_prompts(Path(path) for path in paths), ngram)
