"""Prompts that sets share are found and named; templates and short prompts that only look alike are not."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.hygiene import check_hygiene
from nemo_cascade.cascade.inputs import Inputs
from nemo_cascade.cascade.runner import CascadeRunner
from nemo_cascade.config.hygiene import HygieneConfig
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.data.hygiene.exclusions import PromptRows, Search, find_prompts
from nemo_cascade.errors import DataError
from nemo_cascade.nano.prepare import prepare_data
from nemo_cascade.report.page import write_report

RULES = HygieneConfig()


def user(text):
    return {"messages": [{"role": "user", "content": text}]}


def answered(text):
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(count, seed):
    """Long prompts that share no nine words."""
    return [" ".join(f"word{(seed + i) * 1000 + k}" for k in range(40)) for i in range(count)]


def overlap(prompts, rows, rules=RULES):
    ((found,),) = find_prompts([Search((prompts,), rows)], rules)
    return found


def search(tmp_path, prompts, rows):
    found = overlap(
        PromptRows(write(tmp_path / "prompts.jsonl", prompts)), PromptRows(write(tmp_path / "rows.jsonl", rows))
    )
    assert found.prompts == len(prompts)
    return [(hit.prompt.rpartition(":")[2], hit.where.rpartition(":")[2], hit.how) for hit in found.found]


def test_short_prompts_are_found_where_they_are_the_same_only(tmp_path):
    order = "List words. Avoid cat cup fish. With a title. Use the word sun 3 times."
    prompts = [user("Compute 123+456."), user(order)]
    alike = [
        "Compute 124+456.",
        "Compute 123-456.",
        order.replace("3", "4"),
    ]
    same = ["compute  \uff11\uff123+456.", order.upper()]
    rows = [answered(text) for text in alike + same]
    assert search(tmp_path, prompts, rows) == [("1", "4", "exact"), ("2", "5", "exact")]


def test_a_short_prompt_is_found_in_one_turn_of_many(tmp_path):
    turns = [*answered("Hello there")["messages"], *answered("Compute 1+2.")["messages"]]
    assert search(tmp_path, [user("Compute 1+2.")], [{"messages": turns}]) == [("1", "1", "exact")]


def with_changed(words, places):
    return " ".join("other" if i in places else word for i, word in enumerate(words))


def test_a_long_prompt_is_found_with_changed_words_and_in_part(tmp_path):
    words = texts(1, 1)[0].split()
    rows = [
        with_changed(words, {7, 19, 31}),  # three of forty words: runs of eleven are left
        with_changed(words, {8, 17, 26, 35}),  # no nine in a row, but 26 of 50 different runs of three are common
        with_changed(words, set(range(0, 40, 6))),  # no nine in a row, and few runs of three
        texts(1, 5)[0] + " " + " ".join(words[10:19]),  # nine in a row
        texts(1, 5)[0] + " " + " ".join(words[10:18]),
    ]
    assert search(tmp_path, [user(texts(1, 2)[0]), user(" ".join(words))], [answered(row) for row in rows]) == [
        ("2", "1", "ngram"),
        ("2", "2", "near"),
        ("2", "4", "ngram"),
    ]


def test_three_changed_words_hide_no_prompt_of_25_words_or_more(tmp_path):
    rng = random.Random(0)
    originals = [text.split()[: 25 + i % 16] for i, text in enumerate(texts(400, 1000))]
    changed = [with_changed(words, set(rng.sample(range(len(words)), 3))) for words in originals]
    found = search(tmp_path, [user(" ".join(words)) for words in originals], [answered(text) for text in changed])
    assert all(prompt == row for prompt, row, _ in found)
    assert len(found) == len(originals)


def test_a_copy_with_changed_words_is_found_under_a_template_that_is_longer_than_it(tmp_path):
    shell = " ".join(f"shell{i}" for i in range(200))
    prompts = [f"{shell} Alice {text}" for text in texts(8, 20)] + [f"{shell} {text}" for text in texts(32, 28)]
    copy = f"{shell} {with_changed(texts(1, 33)[0].split(), {6, 15, 24, 33})}"
    assert search(tmp_path, [user(text) for text in prompts], [answered(copy)]) == [("14", "1", "near")]
    others = [answered(f"{shell} Alice {text}") for text in texts(40, 70)]
    assert search(tmp_path, [user(text) for text in prompts], others) == []


def test_a_template_that_many_prompts_share_isn_t_taken_for_them(tmp_path):
    names = ["Ann", "Bob", "Cid", "Dee", "Eve", "Fay", "Gus", "Hal", "Ida", "Joe"]
    shell = "Put your final answer in a box and explain each step that you take before you do so"
    prompts = [user(f"{text} {shell}") for text in texts(len(names), 20)]
    assert search(tmp_path, prompts, [answered(f"{text} {shell}") for text in texts(4, 50)]) == []


@pytest.fixture
def planted(tmp_path):
    """A cascade of one SFT and one RL stage whose sets a test can plant prompts in."""
    config, _ = compose(["cascade=nano", f"runs_dir={tmp_path}"])
    lists = {"sft": texts(6, 100), "rl": texts(5, 200), "suite": texts(4, 300)}
    places = {name: tmp_path / f"{name}.jsonl" for name in lists}

    def check(**rules):
        for name, rows in lists.items():
            write(places[name], [(answered if name == "sft" else user)(text) for text in rows])
        sft, rl = config.stages["sft1"], config.stages["math_rl"]
        sft = replace(sft, data=replace(sft.data, sources=[replace(sft.data.sources[0], path=str(places["sft"]))]))
        rl = replace(rl, tasks={"math": replace(rl.tasks["math"], path=str(places["rl"]))})
        suite = replace(config.evaluation.suites["math"], path=str(places["suite"]))
        evaluation = replace(config.evaluation, suites={"math": suite})
        hygiene = replace(config.hygiene, **rules)
        stages = {"sft1": sft, "rl_a": rl, "rl_b": rl}
        return check_hygiene(replace(config, stages=stages, evaluation=evaluation, hygiene=hygiene))

    return SimpleNamespace(lists=lists, places=places, check=check, data_dir=tmp_path / "data")


def test_disjoint_sets_pass_and_every_pair_is_reported_once(planted):
    report = planted.check()
    assert [(pair["prompts_of"], pair["found_in"], pair["prompts"]) for pair in report["pairs"]] == [
        (["stages.rl_a.tasks.math", "stages.rl_b.tasks.math"], ["stages.sft1.data.sources.0"], 5),
        (["evaluation.suites.math"], ["stages.sft1.data.sources.0"], 4),
        (["evaluation.suites.math"], ["stages.rl_a.tasks.math", "stages.rl_b.tasks.math"], 4),
    ]
    assert {(pair["exact_only"], pair["prompts_found"]) for pair in report["pairs"]} == {(0, 0)}
    assert set(report["files"]) == {str(path) for path in planted.places.values()}
    assert planted.check(enabled=False) is None


def test_planted_prompts_refuse_the_run_and_are_named_by_file_and_line(planted):
    planted.lists["sft"][3] = planted.lists["suite"][1]
    changed = planted.lists["rl"][4].split()
    changed[7], changed[19], changed[31] = "other", "words", "here"
    planted.lists["sft"][5] = " ".join(changed)
    with pytest.raises(DataError, match="prompt sets overlap that must be disjoint") as raised:
        planted.check()
    told, places = str(raised.value), planted.places
    assert "1 of 4 prompts of evaluation.suites.math, allowed 0 of them, are in stages.sft1.data.sources.0" in told
    assert f"{places['sft']}:4 is exactly {places['suite']}:2" in told
    assert "1 of 5 prompts of stages.rl_a.tasks.math, stages.rl_b.tasks.math, allowed 0" in told
    assert f"{places['sft']}:6 shares a run of words with {places['rl']}:5" in told
    # Within the limits the run goes on, and the report says what was found.
    report = planted.check(max_rl_in_sft=0.2, max_evaluation_in_training=0.25)
    assert [pair["prompts_found"] for pair in report["pairs"]] == [1, 1, 0]
    assert report["pairs"][0]["rows_found"] == {"exact": 0, "near": 0, "ngram": 1}
    with pytest.raises(DataError, match=r"allowed 0\.19 of them"):
        planted.check(max_rl_in_sft=0.19, max_evaluation_in_training=0.25)


def test_a_second_check_of_the_same_files_reads_the_report_and_one_of_others_looks_again(planted):
    planted.check()
    (kept,) = (planted.data_dir / "hygiene").iterdir()
    changed = kept.stat().st_mtime_ns
    planted.check()
    assert kept.stat().st_mtime_ns == changed
    planted.lists["suite"][0] = planted.lists["rl"][0]
    with pytest.raises(DataError, match=r"evaluation.suites.math, allowed 0 of them, are in stages.rl_a.tasks.math"):
        planted.check()


def test_what_decontamination_drops_anyway_refuses_nothing(tmp_path):
    shared = texts(1, 1)[0]
    suite = write(tmp_path / "suite.jsonl", [user(shared)])
    rows = write(tmp_path / "sft.jsonl", [answered(shared), answered(texts(1, 2)[0])])
    assert len(overlap(PromptRows(suite), PromptRows(rows)).found) == 1
    screened = PromptRows(rows, screened=(suite,), screened_ngram=9)
    assert overlap(PromptRows(suite), screened).found == []


def test_the_nano_sets_are_disjoint(tmp_path, data_dir):
    config, _ = compose(["cascade=nano", f"runs_dir={tmp_path}", f"data_dir={data_dir}"])
    prepare_data(config)
    report = check_hygiene(config)
    assert {pair["prompts_found"] for pair in report["pairs"]} == {0}
    # All of nano's prompts are short: the report doesn't let its zeros pass for more than they are.
    assert all(0 < pair["exact_only"] <= pair["prompts"] for pair in report["pairs"])
    assert len({str(pair["prompts_of"]) for pair in report["pairs"]}) == 14


def test_the_run_folder_keeps_the_report(planted, tmp_path):
    report, folder = planted.check(), RunFolder(tmp_path / "run")
    folder.path.mkdir()
    runner = CascadeRunner(compose(["cascade=nano"])[0], folder, Inputs(tmp_path, tmp_path, report))
    runner._record_hygiene()
    assert json.loads(folder.hygiene.read_text()) == report
    assert runner.ledger.find("prompts_compared").details["pairs"] == 3
    # A resumed run has nothing to add.
    runner._record_hygiene()
    assert [record.event for record in runner.ledger.records] == ["prompts_compared"]
    page = write_report(folder.path).read_text()
    assert '<td class="mono">stages.rl_a.tasks.math, stages.rl_b.tasks.math</td>' in page
    assert "25 words of its own" in page
    folder.hygiene.write_text("{")
    assert "read which prompts the sets share" in write_report(folder.path).read_text()
