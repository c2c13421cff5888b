"""The report of a finished, an unfinished and a damaged run."""

import re
from html.parser import HTMLParser

import pytest
import yaml
from rich.console import Console

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.ledger import Ledger
from nemo_cascade.evaluation.preference import preference_scores
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.report.budgets import budget_charts
from nemo_cascade.report.matrix import Cell, Matrix, MatrixRow, collect_matrix, matrix_tables
from nemo_cascade.report.page import write_report
from nemo_cascade.report.samples import stage_samples
from nemo_cascade.telemetry.metrics import MetricsLog

VOID = {"meta", "br", "use", "path"}


class Outline(HTMLParser):
    """Check that tags nest, and collect the text and every reference that could leave the page."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.references, self.scripts, self.svgs = [], [], [], 0, 0

    def handle_starttag(self, tag, attrs):
        self.svgs += tag == "svg"
        self.scripts += tag == "script"
        self.references += [v for k, v in attrs if k in ("href", "src", "xlink:href") and not v.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    outline = Outline()
    outline.feed(page.read_text(encoding="utf-8"))
    assert outline.open == []
    return outline


def test_report_is_one_self_contained_page_with_every_section(run_folder):
    outline = parse(write_report(run_folder.path))
    text = re.sub(r"\s+", " ", " ".join(outline.text))
    assert outline.references == []
    assert outline.scripts == 0
    assert "r = math; A = (r - group mean) / group std" in text
    # One trend, five charts of sft, and of each RL stage its own; 7 steps of code_rl are drawn too.
    assert outline.svgs >= 1 + 5 + 2 * 10
    for expected in (
        "held by the gate after math_rl",
        "code_rl",
        "training",
        "7 of 100",
        "Reward",
        "Entropy",
        "Time by phase",
        "regressed",
        "has 25 words of its own",
    ):
        assert expected in text
    assert "code fell by more than 0.02, significantly" in text
    assert "optimizer.lr 2e-06 4e-06" in text
    assert "ended by truncation after 40 steps: 0.0987, rule 0.1" in text
    assert "3 events" not in text
    assert "8 events" in text


def test_rollouts_are_escaped_and_long_ones_cut(run_folder):
    page = write_report(run_folder.path).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "4000 characters left out" in page
    chosen = [(s.step, s.why) for s in stage_samples(run_folder.stage(2, "math_rl") / "rollouts")]
    whys = ("best", "worst", "truncated", "verifier error")
    assert chosen == [(step, why) for step in (1, 40) for why in whys]


def test_a_rollout_of_several_turns_is_read_turn_by_turn(run_folder):
    text = " ".join(" ".join(parse(write_report(run_folder.path)).text).split())
    assert r"turn 1 of 2 first question a call turn 2 of 2 its result \boxed{yes}" in text
    best, worst = (
        s
        for s in stage_samples(run_folder.stage(2, "math_rl") / "rollouts")
        if s.step == 40 and s.reward is not None and s.why in ("best", "worst")
    )
    assert (len(best.turns), len(worst.turns), worst.turns[0].said[:8]) == (2, 1, "<script>")


def test_report_of_an_empty_folder_says_so(tmp_path):
    outline = parse(write_report(tmp_path))
    assert "No model of this run has been scored yet." in " ".join(outline.text)


def test_damaged_parts_are_named_and_the_rest_is_shown(run_folder):
    lines = run_folder.ledger.read_text().splitlines(keepends=True)
    run_folder.ledger.write_text(lines[0].replace('"seed":0', '"seed":1') + "".join(lines[1:]))
    (run_folder.stage(1, "sft1") / "metrics.jsonl").write_text("nonsense\n")
    text = " ".join(parse(write_report(run_folder.path)).text)
    assert "line 1 of the ledger" in text
    assert "metrics.jsonl isn't a JSON object" in text
    assert "math_rl" in text


def test_a_reward_model_shows_its_curves_and_its_calibration(run_folder):
    folder = run_folder.stage(4, "rm")
    folder.mkdir()
    log = MetricsLog(folder / "metrics.jsonl")
    for step in range(1, 6):
        line = {"loss": 0.7 / step, "accuracy": 0.5 + 0.08 * step, "score_chosen": 0.3 * step, "score_rejected": 0.0}
        log.log(step, line | ({"holdout_accuracy": 0.8} if step == 5 else {}))
    preference_scores([2.0, 1.0, -0.3, 0.4]).save(folder / "preference.json")
    text = " ".join(parse(write_report(run_folder.path)).text)
    for expected in ("Accuracy", "hold-out", "rejected", "Calibration", "error 0."):
        assert expected in text
    (folder / "preference.json").write_text("nonsense")
    assert "can't read the reward model's scores" in " ".join(parse(write_report(run_folder.path)).text)


def test_same_run_gives_the_same_page(run_folder):
    assert write_report(run_folder.path).read_bytes() == write_report(run_folder.path).read_bytes()


def test_matrix_table_shows_scores_differences_and_broken_promises(run_folder):
    console = Console(width=160, record=True)
    console.print(next(matrix_tables(collect_matrix(RunFolder(run_folder.path)))))
    lines = console.export_text().splitlines()
    start, sft1, math_rl = (next(line for line in lines if name in line) for name in ("start", "sft1", "math_rl"))
    assert len(re.findall(r"0\.\d{3} ± 0\.\d{3}", start)) == 3
    assert not re.search(r"[+-]0\.\d{3}", start)
    assert len(re.findall(r"\+0\.\d{3}", sft1)) == 3
    assert "promote" in sft1
    assert len(re.findall(r"-0\.\d{3}!", math_rl)) == 1
    assert "hold" in math_rl


def test_obeyed_modes_and_pass_at_k_stand_by_stage_on_the_page_and_in_the_terminal(run_folder):
    folder = RunFolder(run_folder.path)
    for place, stage in enumerate(stage for stage in folder.stages() if stage.scores.is_file()):
        scores = Scores.load(stage.scores)
        graded = {"chat": {f"chat/{i}": [0.25, 0.5] for i in range(3)}}
        details = {"math": {"mode_obeyed": 0.125 + place / 8}}
        Scores({**scores.samples, **graded}, details).save(stage.scores)
    obeyed, passed = collect_matrix(folder).shares
    assert obeyed.columns == ("math",)
    assert obeyed.rows == (("start", (0.125,)), ("sft1", (0.25,)), ("math_rl", (0.375,)))
    # Two samples each; the scores of chat are neither 0 nor 1.
    assert "chat @2" not in passed.columns
    best = [max(row) for row in Scores.load(folder.stages()[0].scores).samples["code"].values()]
    assert passed.rows[0][1][passed.columns.index("code @2")] == pytest.approx(sum(best) / len(best))
    console = Console(width=160, record=True)
    for table in matrix_tables(collect_matrix(folder)):
        console.print(table)
    for text in (console.export_text(), " ".join(parse(write_report(folder.path)).text)):
        assert re.search(r"Answers in the mode asked for\s.*start\s+0\.125\s+sft1\s+0\.250", text, re.DOTALL), text
        assert "code @2" in text


def test_many_domains_take_several_tables_of_the_terminal():
    cell = Cell(score=0.5, stderr=0.01, n=9, samples=1, pass_at_k=None, mode_obeyed=None, row=None)
    domains = tuple(f"domain{i}" for i in range(7))
    tables = list(matrix_tables(Matrix(domains, (MatrixRow("start", dict.fromkeys(domains, cell), None),))))
    assert [[c.header for c in table.columns][1:-1] for table in tables] == [list(domains[:5]), list(domains[5:])]


def test_suites_that_differ_in_their_budgets_are_a_curve_of_every_stage(run_folder):
    folder = RunFolder(run_folder.path)
    stored = yaml.safe_load(folder.config.read_text())
    suites = stored["evaluation"]["suites"]
    for domain, budget in (("math", 64), ("code", 16)):
        suites[domain]["sampling"] |= {"thinking_budget": budget, "max_tokens": budget + 32}
    folder.config.write_text(yaml.safe_dump(stored))
    (chart,) = budget_charts(collect_matrix(folder), suites)
    assert chart.unit == "tokens; code, math"
    assert [label for label, _ in chart.legend] == ["start", "sft1", "math_rl"]
    last = collect_matrix(folder).rows[-1].cells
    assert chart.last == f"16: {last['code'].score:.3f}, 64: {last['math'].score:.3f}"
    assert "Score by budget of thoughts" in " ".join(parse(write_report(run_folder.path)).text)
    suites["code"]["mode"] = "no_think"
    assert budget_charts(collect_matrix(folder), suites) == []


def test_a_rounds_pairs_stand_beside_its_stage(run_folder):
    counts = {"tied": 21, "low_quality": 0, "truncated": 0, "unjudged": 0}
    found = {"prompts": 256, "pairs": 235, **counts, "score_mean": 2.8767, "reward_gap_mean": 1.0279}
    Ledger(run_folder.ledger).append("pairs_read", "math_rl", **found)
    Ledger(run_folder.ledger).append("pairs_read", "sft", pairs=6000)
    text = re.sub(r"\s+", " ", " ".join(parse(write_report(run_folder.path)).text))
    assert "235 pairs of 256 prompts" in text
    assert "left out 21 tied mean score 2.88 mean gap 1.03" in text
    assert "6000 pairs of" not in text
