import difflib
import math
import time

import pytest

from nemo_cascade.errors import RewardError
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.swe.edits import Edit, EditError, apply_edits, parse_edits
from nemo_cascade.rewards.swe.execution import ExecuteVerifier, WriteTestVerifier
from nemo_cascade.rewards.swe.localize import LocalizeVerifier
from nemo_cascade.rewards.swe.repair import RepairVerifier
from nemo_cascade.rewards.swe.similarity import patch_similarity
from nemo_cascade.rewards.swe.unified_diff import PatchError, apply_patch, file_diffs
from nemo_cascade.rewards.verifier import VerifierError
from tests.support.judge_server import first_token, judge_server

OLD = {"pkg/a.py": "import os\n\n\ndef f(x):\n    return x\n\n\ndef g(x):\n    return x\n", "b.py": "y = 1\n"}
NEW = {**OLD, "pkg/a.py": OLD["pkg/a.py"].replace("    return x\n\n\n", "    return x + 1\n\n\n", 1)}


def edit(path, search, replace):
    return f"### {path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


def made(path, search, replace):
    return Edit(path, tuple(search.splitlines()), tuple(replace.splitlines()))


def test_edits_are_parsed_with_their_paths_in_order():
    text = "Plan.\n<solution>\n```diff\n" + edit("pkg/a.py", "one\n  two", "") + "```\nthen\n```python\n"
    text += (
        edit("b.py", "y = 1", "y = 2").replace("### b.py", "`b.py`")
        + "<<<<<<< SEARCH\nz\n=======\nw\n>>>>>>> REPLACE\n"
    )
    edits = parse_edits(text + "```\n</solution>")
    assert edits == [made("pkg/a.py", "one\n  two", "\n"), made("b.py", "y = 1", "y = 2"), made("b.py", "z", "w")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words about a.py",
        "<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE",
        "### a.py\n<<<<<<< SEARCH\na\n=======\nb",
        "### a.py\n<<<<<<< SEARCH\na\n>>>>>>> REPLACE",
        "<solution>nothing</solution>" + edit("a.py", "a", "b").replace("a.py", "a.py"),
    ][:5],
)
def test_malformed_edits_are_refused(text):
    with pytest.raises(EditError):
        parse_edits(text)


def test_edit_replaces_whole_lines_at_their_first_place():
    changed = apply_edits(OLD, [made("pkg/a.py", "    return x  ", "    return x + 1")])
    assert changed == NEW
    assert apply_edits(OLD, [made("b.py", "y = 1", "")])["b.py"] == ""
    assert apply_edits(OLD, [made("new.py", "", "z = 1")])["new.py"] == "z = 1\n"
    chained = apply_edits(OLD, [made("b.py", "y = 1", "y = 2"), made("b.py", "y = 2", "y = 3")])
    assert chained["b.py"] == "y = 3\n"
    for bad in (
        made("b.py", "y =", "z"),
        made("c.py", "y = 1", "z"),
        made("b.py", "", "z"),
        made("b.py", "y = 1\nq", ""),
    ):
        with pytest.raises(EditError):
            apply_edits(OLD, [bad])


def test_unified_diff_round_trips():
    lines = difflib.unified_diff(
        OLD["pkg/a.py"].split("\n"), NEW["pkg/a.py"].split("\n"), "a/pkg/a.py", "b/pkg/a.py", lineterm=""
    )
    patch = "diff --git a/pkg/a.py b/pkg/a.py\n" + "\n".join(lines)
    assert apply_patch(OLD, patch) == NEW
    created = "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1,2 @@\n+a = 1\n+b = 2\n"
    assert apply_patch(OLD, created)["new.py"].split("\n")[:2] == ["a = 1", "b = 2"]
    deleted = "--- a/b.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-y = 1\n"
    assert "b.py" not in apply_patch(OLD, deleted)
    for bad in (patch.replace("return x", "return z"), "", patch[:-40]):
        with pytest.raises(PatchError):
            apply_patch(OLD, bad)


def test_similarity_of_a_text_that_fits_nowhere_and_everywhere_ends_in_time():
    golden = "".join(f"+    total_{n} = total_{n - 1} + value[{n}]\n" for n in range(60))
    apart = "\u03a9".join(golden)  # every match is one sign long
    began = time.process_time()
    assert 0 <= patch_similarity({"a": apart}, {"a": golden}) < 0.7
    assert 0 <= patch_similarity({"a": "ab" * 2400}, {"a": "ba" * 2400}) <= 1
    assert 0 <= patch_similarity({"a": "\n".join(apart)}, {"a": "\n".join(golden) * 4}) < 0.7
    assert time.process_time() - began < 20


def test_similarity_is_one_for_the_same_change_and_falls_with_the_difference():
    golden = file_diffs(OLD, NEW)
    close = file_diffs(OLD, {**OLD, "pkg/a.py": NEW["pkg/a.py"].replace("x + 1", "x + 2")})
    far = file_diffs(OLD, {**OLD, "b.py": "y = 2\n"})
    assert patch_similarity(golden, golden) == 1.0
    assert 0.8 < patch_similarity(close, golden) < 1.0
    assert patch_similarity(far, golden) == 0.0
    both = {**golden, **far}
    assert patch_similarity(both, golden) == 0.5
    moved = {p: text.replace("@@ -2,", "@@ -9,") for p, text in golden.items()}
    assert patch_similarity(moved, golden) == 1.0


ROW = {"files": OLD, "fixed_files": {"pkg/a.py": NEW["pkg/a.py"]}, "problem": "f must add one"}
CLOSE = edit("pkg/a.py", "    return x", "    return 1 + x")


def test_repair_reward_has_four_cases():
    answers = {
        1.0: edit("pkg/a.py", "def f(x):\n    return x", "def f(x):\n    return x + 1"),
        0.0: edit("pkg/a.py", "import os", "import os"),
        -1.0: edit("pkg/a.py", "import sys", "import os"),
    }
    with judge_server(lambda request: (200, first_token(YES=math.log(0.6), NO=math.log(0.2)))) as (url, requests):
        verifier = RepairVerifier("judge", judge={"url": url, "model": "judge"})
        for due, text in answers.items():
            assert verifier.verify(ROW, Response(f"<think>x</think>{text}")) == due
        assert requests == []
        assert verifier.verify(ROW, Response(CLOSE)) == pytest.approx(0.75)
        [(_, request)] = requests
        question = request["messages"][0]["content"]
        for part in ("f must add one", "+    return 1 + x", "+    return x + 1"):
            assert part in question
        floored = RepairVerifier("judge", floor=0.8, judge={"url": url, "model": "judge"})
        assert floored.verify(ROW, Response(CLOSE)) == 0.0
    assert 0.8 < RepairVerifier().verify(ROW, Response(CLOSE)) < 1.0


def test_repair_without_its_judge_is_an_error_or_refused():
    with pytest.raises(RewardError, match="otherwise=judge"):
        RepairVerifier("judge")
    with judge_server(lambda request: (500, "down")) as (url, _):
        verifier = RepairVerifier("judge", judge={"url": url, "model": "judge", "attempts": 1})
        with pytest.raises(VerifierError, match="infrastructure"):
            verifier.verify(ROW, Response(CLOSE))
    with pytest.raises(VerifierError, match="record"):
        RepairVerifier().verify({"files": OLD, "patch": "garbage"}, Response(CLOSE))


def test_localisation_scores_recall_precision_and_f1():
    row = {"gold_files": ["a/b.py", "c.py"]}
    answer = Response("<think>x.py</think>Look at:\n```\n- `./a/b.py`\n2. d.py\n* e.py,\nnot a file name\n```")
    assert LocalizeVerifier("recall").verify(row, answer) == 0.5
    assert LocalizeVerifier("precision").verify(row, answer) == pytest.approx(1 / 3)
    assert LocalizeVerifier("f1").verify(row, answer) == pytest.approx(0.4)
    everything = Response("\n".join(f"f{i}.py" for i in range(20)) + "\na/b.py\nc.py")
    assert LocalizeVerifier().verify(row, everything) == 0.0


CALC = {"calc.py": "def half(x):\n    return x // 2\n"}
UNITTEST = """
import unittest
from calc import half

class TestHalf(unittest.TestCase):
    def setUp(self):
        self.three = 3
    def test_odd(self):
        print("noise")
        self.assertEqual(half(self.three), 1.5)
    def test_even(self):
        self.assertEqual(half(4), 2)
"""


def test_patch_is_judged_by_running_the_named_tests():
    row = {
        "files": {**CALC, "tests/test_calc.py": "def test_odd(): pass"},
        "test_files": {"tests/test_calc.py": UNITTEST},
        "fail_to_pass": ["tests/test_calc.py::TestHalf::test_odd"],
        "pass_to_pass": ["tests/test_calc.py::TestHalf"],
    }
    verifier = ExecuteVerifier(test_s=1.0)
    fix = edit("calc.py", "    return x // 2", "    return x / 2")
    assert verifier.verify(row, Response(fix)) == 1.0
    half_fix = verifier.verify(row, Response(edit("calc.py", "    return x // 2", "    return 1.5")))
    assert half_fix == 0.0
    assert "TestHalf" in half_fix.detail
    cheat = edit("tests/test_calc.py", "def test_odd(): pass", "class TestHalf:\n    def test_odd(self): pass")
    assert verifier.verify(row, Response(cheat)) == 0.0
    for broken in ("    import sys; sys.exit(0)", "    while True: pass", "    return ("):
        assert verifier.verify(row, Response(edit("calc.py", "    return x // 2", broken))) == 0.0
    absent = {**row, "fail_to_pass": ["tests/test_calc.py::TestHalf::test_absent"]}
    assert verifier.verify(absent, Response(fix)) == 0.0
    assert ExecuteVerifier(unparsable_score=-1.0).verify(row, Response("no idea")) == -1.0


def test_written_test_must_fail_before_the_fix_and_pass_after():
    row = {"files": CALC, "fixed_files": {"calc.py": "def half(x):\n    return x / 2\n"}}
    cases = {
        UNITTEST: (1.0, 1.0),
        "from calc import half\ndef test_even():\n    assert half(4) == 2": (0.0, 0.2),
        "from calc import half\ndef test_wrong():\n    assert half(4) == 3": (0.0, 0.1),
        "def test(": (0.0, 0.0),
        "x = 1": (0.0, 0.1),
    }
    whole, partial = WriteTestVerifier(), WriteTestVerifier(partial=True)
    for test, due in cases.items():
        response = Response(f"<think>t</think>\n```python\n{test}\n```")
        assert (whole.verify(row, response), partial.verify(row, response)) == due, test


def test_renames_copies_and_unterminated_files_are_patched_as_git_writes_them():
    files = {"old.py": "a = 1\nb = 2", "keep.py": "k = 1\n"}
    renamed = (
        "diff --git a/old.py b/sub dir/new.py\nsimilarity index 50%\nrename from old.py\nrename to sub dir/new.py\n"
        "--- a/old.py\t\n+++ b/sub dir/new.py\t\n@@ -2 +2 @@ a\n-b = 2\n\\ No newline at end of file\n+b = 3\n"
        "diff --git a/keep.py b/copy.py\nsimilarity index 100%\ncopy from keep.py\ncopy to copy.py\n"
        "diff --git a/empty.py b/empty.py\nnew file mode 100644\nindex 0000000..e69de29\n"
    )
    due = {"sub dir/new.py": "a = 1\nb = 3\n", "keep.py": "k = 1\n", "copy.py": "k = 1\n", "empty.py": ""}
    assert apply_patch(files, renamed) == due
    gone = "diff --git a/keep.py b/keep.py\ndeleted file mode 100644\n"
    gone += "--- a/keep.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-k = 1\n"
    assert apply_patch(files, gone) == {"old.py": files["old.py"]}
    binary = "diff --git a/x.png b/x.png\nBinary files a/x.png and b/x.png differ\n"
    for bad in (binary, renamed.replace("b = 2", "b = 9")):
        with pytest.raises(PatchError):
            apply_patch(files, bad)


def test_a_written_test_is_tried_in_an_order_that_tells_nothing():
    from nemo_cascade.rewards.swe.trial import WrittenTrialRunner

    orders = {tuple(WrittenTrialRunner(1.0, 64, 4)._order()) for _ in range(200)}
    assert len(orders) > 20
    assert all(sorted(order) == [0] * 4 + [1] * 4 and set(order[:2]) == {0, 1} for order in orders)
