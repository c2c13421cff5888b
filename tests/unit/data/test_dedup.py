import numpy as np
import pytest

from nemo_cascade.config.stages.sft_data import DecontaminateConfig, DedupConfig
from nemo_cascade.data.hygiene.decontaminate import NgramIndex, PromptText
from nemo_cascade.data.hygiene.dedup import Said, find_duplicates, write_fingerprints
from nemo_cascade.data.hygiene.words import canonical, ngram_hashes, words
from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.errors import DataError
from tests.support.planted import plant, table, write
from tests.unit.data.conftest import conversation, sft_stage


@pytest.fixture(scope="module")
def planted():
    return plant(5000, ["networkx"])


def duplicates(folder, texts, config, shards):
    cuts = np.linspace(0, len(texts), shards + 1).astype(int)
    folders = []
    for number in range(shards):
        folders.append(folder / f"{shards}-{number}")
        folders[-1].mkdir()
        write_fingerprints(folders[-1], map(Said, texts[cuts[number] : cuts[number + 1]]), config)
    return find_duplicates(folders, config)


def test_near_duplicates_are_found_as_planted_and_no_other_whatever_the_shards(planted, tmp_path):
    config = DedupConfig(method="near")
    found = duplicates(tmp_path, planted.rows, config, 1)
    recall, precision = table(set(np.flatnonzero(found.repeated).tolist()), planted.repeats)
    for kind, (count, share) in recall.items():
        assert count > 20
        # Three changed words of fifty leave 70 % of the runs of three words: at the threshold.
        assert share >= (0.8 if kind == "three words" else 1.0), kind
    assert precision >= 0.99
    split = duplicates(tmp_path, planted.rows, config, 7)
    assert np.array_equal(split.exact, found.exact)
    assert np.array_equal(split.near, found.near)


def test_exact_duplicates_are_those_whose_spelling_alone_differs(planted, tmp_path):
    found = duplicates(tmp_path, planted.rows, DedupConfig(method="exact"), 3)
    recall, precision = table(set(np.flatnonzero(found.repeated).tolist()), planted.repeats)
    assert precision == 1.0
    assert {kind: share for kind, (_, share) in recall.items()} == {
        "exact": 1.0, "case": 1.0, "white space": 1.0, "three words": 0.0, "digits": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("n", [9, 13])
def test_contaminations_are_found_as_planted_and_no_other(planted, n):
    index = NgramIndex([PromptText(p, str(i)) for i, p in enumerate(planted.prompts)], n)
    found = {i for i, text in enumerate(planted.rows) if index.match(text, [text]) is not None}
    # A repeat of a contaminated row can't be: repeats are drawn of clean rows only.
    recall, precision = table(found, planted.contaminations)
    for kind, (count, share) in recall.items():
        assert count > 20
        assert share >= ((0.9 if n == 9 else 0.5) if kind == "three words" else 1.0), kind
    assert precision >= 0.99


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Two  plus\n2", "two plus ２", True),
        ("٣ ٤ apples", "3 4 apples", True),
        ("STRASSE", "straße", True),
        ("2 + 2", "2 - 2", False),
        ("a b", "ab", False),
    ],
)
def test_spellings_that_count_as_the_same(one, other, same):
    assert (canonical(one) == canonical(other)) is same


def test_words_are_without_punctuation_and_unspaced_scripts_have_one_per_character():
    assert words("What's $x^2$, then?") == ["what", "s", "x", "2", "then"]
    assert words("1+1等于几？x") == ["1", "1", "等", "于", "几", "x"]


def test_runs_of_words_hash_by_their_order():
    a, b, c = np.arange(1, 4, dtype=np.uint64) << np.uint64(40)
    runs = [ngram_hashes(np.array(r, np.uint64), 3).tolist() for r in ([a, b, c], [c, b, a], [a, b, c, a])]
    assert runs[0] == runs[2][:1]
    assert len({*runs[0], *runs[1], *runs[2]}) == 3
    assert ngram_hashes(np.array([a, b], np.uint64), 3).tolist() == []


def test_short_prompts_are_compared_whole_and_boilerplate_is_left_out():
    ending = "Put your final answer within a box and write nothing behind it please."
    prompts = [PromptText("What is 2+2?", "e:1")]
    prompts += [PromptText(f"{name} {ending}", f"e:{i}") for i, name in enumerate("abcdefghijkl", 2)]
    index = NgramIndex(prompts, 9)
    assert index.match("what is 2 + 2", ["what is 2 + 2"]) == 0
    assert index.match("a long text that asks what is 2 + 2 somewhere", ["what is 3 + 2"]) is None
    assert index.match(f"z {ending}", [f"z {ending}"]) is None
    assert index.boilerplate > 0
    assert index.match(f"c {ending}", [f"c {ending}"]) == 3


def test_build_drops_and_reports_what_it_finds_by_source(tokenizer, planted, tmp_path):
    few = type(planted)(planted.rows[:300], planted.prompts)
    folder, prompts = write(few, tmp_path, files=3)
    repeats = {i for i, kind in planted.repeats.items() if i < 300 and kind != "three words"}
    contaminated = {i for i in planted.contaminations if i < 300}
    rules = {"seq_length": 4096, "dedup": DedupConfig(method="exact"), "workers": 1}
    rules["decontaminate"] = DecontaminateConfig(against=[prompts])
    store = build_packed_store(sft_stage(folder, **rules), tokenizer.folder, tmp_path / "c")
    assert store.stats["dropped_duplicates"] == len(repeats)
    assert store.stats["dropped_contaminated"] == len(contaminated)
    assert store.stats["samples"] == 300 - len(repeats | contaminated)
    assert store.stats["dedup"]["by_source"][f"0 {folder}"]["samples"] == 300
    assert store.stats["decontaminate"]["by_source"] == {f"0 {folder}": len(contaminated)}
    row = min(contaminated)
    place = f"{folder}/{row // 100:03d}.jsonl:{row % 100 + 1}"
    assert store.stats["decontaminate"]["first"][0].startswith(f"{place} holds {prompts}:")
    page = (store.folder / "summary.html").read_text(encoding="utf-8")
    for expected in (place, "says exactly what", f'<td>repeat of an earlier sample<td class="num">{len(repeats)}<'):
        assert expected in page
    rules["decontaminate"] = DecontaminateConfig(against=[prompts], rule="refuse")
    with pytest.raises(DataError, match=f"{len(contaminated)} samples share 9 words in a row") as raised:
        build_packed_store(sft_stage(folder, **rules), tokenizer.folder, tmp_path / "c")
    assert place in str(raised.value)


def test_damaged_fingerprint_is_named_and_refused(tokenizer, write_jsonl, tmp_path):
    path = write_jsonl([conversation(f"{i}+{i}", str(2 * i)) for i in range(20)])
    build_packed_store(sft_stage(path, dedup=DedupConfig(method="exact")), tokenizer.folder, tmp_path / "c")
    (file,) = (tmp_path / "c" / "screens").rglob("exact.npy")
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    stage = sft_stage(path, dedup=DedupConfig(method="exact"), seq_length=256)
    with pytest.raises(DataError, match=f"damaged data: {file}"):
        build_packed_store(stage, tokenizer.folder, tmp_path / "c")


def test_repeat_of_an_earlier_source_is_dropped_from_the_later_one(tokenizer, write_jsonl, tmp_path):
    first = write_jsonl([conversation("1+1", "2"), conversation("2+2", "4")], "first.jsonl")
    second = write_jsonl([conversation("3+3", "6"), conversation(" 2+2", "4")], "second.jsonl")
    stage = sft_stage(first, second, dedup=DedupConfig(method="exact"))
    store = build_packed_store(stage, tokenizer.folder, tmp_path / "c")
    assert [store.samples["shard"].tolist().count(i) for i in (0, 1)] == [2, 1]
    assert store.stats["dedup"]["first"] == [f"{second}:2 says exactly what {first}:2 does"]
