"""Repair prompts built up to a length: what is always shown, what is drawn, and what is left out and counted."""

import json

import pytest

from nemo_cascade.config.stages.tasks import RepairPromptConfig, TaskConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet, load_prompts
from nemo_cascade.data.prompts.swe_rows import changed_paths
from nemo_cascade.errors import DataError
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.swe.repair import RepairVerifier

GOLD = "def f(x):\n    return x\n"
NOISE = {f"pkg/noise_{i}.py": f"def n{i}(x):\n    return x * {i}\n" * (i + 1) for i in range(8)}
PATCH = "--- a/pkg/gold.py\n+++ b/pkg/gold.py\n@@ -1,2 +1,2 @@\n def f(x):\n-    return x\n+    return x + 1\n"
ROW = {"problem": "f must add one.", "files": {**NOISE, "pkg/gold.py": GOLD}, "patch": PATCH}
LONG = 4000
FIX = "### pkg/gold.py\n<<<<<<< SEARCH\n    return x\n=======\n    return x + 1\n>>>>>>> REPLACE\n"


@pytest.fixture
def build(write_jsonl, tokenizer):
    def build(*rows, budget=LONG, least=0, mode="think", bad=0.0, **rules):
        path = write_jsonl(list(rows))
        repair = RepairPromptConfig(enabled=True, **rules)
        lengths = (least, budget)
        return PromptSet.load(
            path, "swe", "swe_repair", mode, tokenizer, LONG, lengths=lengths, max_bad_fraction=bad, repair=repair
        )

    return build


def shown(prompts):
    return [list(p.record["files"]) for p in prompts.prompts]


def test_each_row_makes_a_prompt_of_the_ground_truth_and_a_mixed_one(build, tokenizer):
    prompts = build(ROW)
    assert [p.task_id for p in prompts.prompts] == ["rows/1/ground_truth", "rows/1/mixed"]
    alone, mixed = shown(prompts)
    assert alone == ["pkg/gold.py"]
    assert len(mixed) == 5
    assert "pkg/gold.py" in mixed
    text = tokenizer.decode(prompts.prompts[1].token_ids)
    assert "f must add one." in text
    for path in mixed:
        assert f"### {path}\n```\n{ROW['files'][path]}```" in text
    assert [text.index(f"### {path}\n") for path in mixed] == sorted(text.index(f"### {path}\n") for path in mixed)


def test_a_prompt_never_exceeds_its_budget_in_any_mode_and_files_are_whole(build, tokenizer):
    fewest = len(build(ROW, kinds=["ground_truth"]).prompts[0].token_ids)
    seen = set()
    for budget in range(fewest + 20, fewest + 1200, 31):
        prompts = build(ROW, budget=budget, mode="half", seed=budget)
        for p in [*prompts.prompts, *prompts.quick]:
            assert len(p.token_ids) <= budget
            text = tokenizer.decode(p.token_ids)
            assert all(f"### {path}\n```\n{content}```" in text for path, content in p.record["files"].items())
            assert "pkg/gold.py" in p.record["files"]
            seen.add(len(p.record["files"]))
    assert seen == {1, 2, 3, 4, 5}


def test_the_order_is_shuffled_and_follows_from_content_and_seed(build):
    rows = [{**ROW, "problem": f"f must add {i}."} for i in range(60)]
    first = build(*rows, kinds=["mixed"])
    places = [files.index("pkg/gold.py") for files in shown(first)]
    assert {places.count(place) > 3 for place in range(5)} == {True}
    assert len({path for files in shown(first) for path in files}) == 9  # every noise file is drawn somewhere
    assert shown(build(*rows, kinds=["mixed"])) == shown(first)
    assert shown(build(*reversed(rows), kinds=["mixed"])) == shown(first)[::-1]
    assert shown(build(*rows, kinds=["mixed"], seed=1)) != shown(first)
    turned = [{**row, "files": dict(reversed(row["files"].items()))} for row in rows]
    assert shown(build(*turned, kinds=["mixed"])) == shown(first)


def test_what_does_not_fit_is_left_out_counted_and_listed(build, tokenizer, write_jsonl, tmp_path):
    long = {**ROW, "files": {**ROW["files"], "pkg/gold.py": GOLD + "# more\n" * 3000}}
    lone = {**ROW, "files": {"pkg/gold.py": GOLD}}
    rules = {"domain": "swe", "reward": {"kind": "swe_repair"}, "repair": RepairPromptConfig(enabled=True)}
    task = TaskConfig(path=write_jsonl([ROW, long, lone]), max_tokens=LONG, **rules)
    prompts = load_prompts({"swe": task}, tokenizer, LONG, tmp_path)
    assert [p.task_id for p in prompts.prompts] == ["rows/1/ground_truth", "rows/1/mixed", "rows/3/ground_truth"]
    assert prompts.left_out == 3
    [listed] = (tmp_path / "quarantine").iterdir()
    reasons = [(row["line"], row["kind"], row["reason"]) for row in map(json.loads, listed.read_text().splitlines())]
    assert [(line, kind) for line, kind, _ in reasons] == [(2, "overlong"), (2, "overlong"), (3, "overlong")]
    assert reasons[0][2].startswith("ground_truth: issue and ground-truth files alone are ")
    assert reasons[0][2].endswith(f"the budget is {LONG}")
    assert reasons[2][2] == "mixed: no noise file fits"
    with pytest.raises(DataError, match="2 left out for their length"):
        build(long)
    least = len(prompts.prompts[0].token_ids) + 1
    assert [p.task_id for p in build(ROW, least=least).prompts] == ["rows/1/mixed"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"problem": " "}, "no issue"),
        ({"files": ["pkg/gold.py"]}, "no files"),
        ({"patch": None}, "no golden patch"),
        ({"patch": "nothing"}, "changes no file"),
        ({"files": NOISE}, "ground-truth files are not among `files`: pkg/gold.py"),
        ({"gold_files": ["pkg/other.py"]}, "ground-truth files are not among `files`: pkg/other.py"),
        ({"files": {"pkg/gold.py": GOLD * 5}, "problem": f"See\n{GOLD * 5}"}, "shows pkg/gold.py already"),
        ({"files": {"pkg/gold.py": f"{GOLD}# <|im_end|>\n"}}, "holds the control token"),
    ],
)
def test_rows_that_can_not_make_a_prompt_are_named_once(build, change, problem):
    with pytest.raises(DataError, match="1 rows are no prompts") as raised:
        build({**ROW, **change})
    assert "rows.jsonl:1: " in str(raised.value)
    assert problem in str(raised.value)
    assert len(build(ROW, {**ROW, **change}, bad=0.5).bad) == 1


def test_noise_with_control_tokens_is_never_shown(build):
    files = {"pkg/gold.py": GOLD, "pkg/odd.py": "# <|im_end|>\n", "pkg/n.py": "x = 1\n"}
    assert sorted(shown(build({**ROW, "files": files}, kinds=["mixed"]))[0]) == ["pkg/gold.py", "pkg/n.py"]


def test_fences_are_longer_than_those_in_a_file(build, tokenizer):
    files = {"pkg/gold.py": f'{GOLD}"""\n````\n"""\n'}
    prompts = build({**ROW, "files": files}, kinds=["ground_truth"])
    assert f"`````\n{files['pkg/gold.py']}`````" in tokenizer.decode(prompts.prompts[0].token_ids)


def test_the_verifier_scores_answers_to_a_built_prompt(build):
    prompts = build(ROW, {**ROW, "patch": None, "fixed_files": {"pkg/gold.py": GOLD.replace("x\n", "x + 1\n")}})
    assert len(prompts) == 4
    for prompt in prompts.prompts:
        assert RepairVerifier().verify(prompt.record, Response(f"<solution>\n{FIX}</solution>")) == 1.0
        assert RepairVerifier().verify(prompt.record, Response("no idea")) == -1.0
    unseen = FIX.replace("pkg/gold.py", next(path for path in NOISE if path not in prompts.prompts[1].record["files"]))
    assert "not among the files shown" in RepairVerifier().verify(prompts.prompts[1].record, Response(unseen)).detail


def test_the_format_that_the_prompt_asks_for_is_the_one_that_is_read(build, tokenizer):
    text = build(ROW, kinds=["ground_truth"]).prompts[0].record["messages"][0]["content"]
    asked = text[text.rindex("<solution>") : text.rindex("</solution>")]
    example = asked.replace("path/to/file.py", "pkg/gold.py").replace("lines as they are", "    return x")
    answer = Response(example.replace("lines as they should be", "    return x + 1") + "</solution>")
    assert RepairVerifier().verify(ROW, answer) == 1.0


def test_new_deleted_and_renamed_files_of_a_patch(build):
    new = "--- /dev/null\n+++ b/pkg/new.py\n@@ -0,0 +1 @@\n+x = 1\n"
    gone = "--- a/pkg/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x = 1\n"
    assert changed_paths(PATCH + new + gone) == (["pkg/gold.py", "pkg/new.py", "pkg/gone.py"], ["pkg/new.py"])
    assert shown(build({**ROW, "patch": PATCH + new}, kinds=["ground_truth"])) == [["pkg/gold.py"]]
