"""Repeats and contaminations found in 200,000 planted rows: recall, precision, rows per second and core."""

import time

import numpy as np
import pytest

from nemo_cascade.config.stages.sft_data import DedupConfig
from nemo_cascade.data.hygiene.decontaminate import NgramIndex, PromptText
from nemo_cascade.data.hygiene.dedup import Said, find_duplicates, write_fingerprints
from tests.support.planted import KINDS, plant, table

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

ROWS, SHARDS = 200_000, 8


@pytest.fixture(scope="module")
def planted():
    return plant(ROWS, ["networkx", "scipy", "numpy"], prompts=500)


def show(name, found, expected, rows, seconds):
    recall, precision = table(found, expected)
    print(
        f"  {name:22s}" + "".join(f"{recall[k][1]:12.4f}" for k in KINDS) + f"{precision:12.5f}{rows / seconds:12.0f}"
    )
    return recall, precision


def head(what, planted, expected):
    counts = [sum(k == kind for k in expected.values()) for kind in KINDS]
    size = sum(map(len, planted.rows)) / len(planted.rows)
    print(
        f"\n{what} in {len(planted.rows):,} rows of {size:.0f} characters: recall by kind, precision, rows/s of a core"
    )
    print(f"  {'':22s}" + "".join(f"{k:>12s}" for k in (*KINDS, "precision", "rows/s")))
    print(f"  {'planted':22s}" + "".join(f"{count:12d}" for count in counts))


def test_repeats(planted, tmp_path):
    head("repeats", planted, planted.repeats)
    for method in ("exact", "near"):
        config, cuts = DedupConfig(method=method), np.linspace(0, ROWS, SHARDS + 1).astype(int)
        begin = time.process_time()
        folders = [tmp_path / f"{method}{i}" for i in range(SHARDS)]
        for folder, first, last in zip(folders, cuts, cuts[1:], strict=False):
            folder.mkdir()
            write_fingerprints(folder, map(Said, planted.rows[first:last]), config)
        mapped = time.process_time() - begin
        found = find_duplicates(folders, config)
        seconds = time.process_time() - begin
        flagged = set(np.flatnonzero(found.repeated).tolist())
        recall, precision = show(method, flagged, planted.repeats, ROWS, seconds)
        print(f"  {'':22s} fingerprints {mapped:.1f} s (any number of processes), merge {seconds - mapped:.1f} s")
        assert all(share == 1 for kind, (_, share) in recall.items() if kind != "three words")
        assert precision > 0.99
    assert recall["three words"][1] > 0.8


def test_contaminations(planted):
    head("contaminations", planted, planted.contaminations)
    for n in (9, 13):
        index = NgramIndex([PromptText(p, str(i)) for i, p in enumerate(planted.prompts)], n)
        begin = time.process_time()
        found = {i for i, text in enumerate(planted.rows) if index.match(text, [text]) is not None}
        seconds = time.process_time() - begin
        recall, precision = show(f"{n} words in a row", found, planted.contaminations, ROWS, seconds)
        assert all(share == 1 for kind, (_, share) in recall.items() if kind != "three words")
        assert precision > 0.99
