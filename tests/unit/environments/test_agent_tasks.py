"""Rows of agents' tasks: what the released sets write is read, and what can't be played is refused."""

import io
import json
import tarfile

import pytest

from nemo_cascade.environments.swe.repository import read_repository
from nemo_cascade.environments.swe.task import read_task
from nemo_cascade.environments.swe.tree import Tree, tree_of
from nemo_cascade.errors import DataError

CALC = "def half(x):\n    return x // 2\n"
MENDED = CALC.replace("//", "/")
TEST = "from calc import half\n\n\ndef test_even():\n    assert half(4) == 2\n"
ADDED = "\n\ndef test_odd():\n    assert half(3) == 1.5\n"
FILES = {"calc.py": CALC, "tests/test_calc.py": TEST}
PATCH = "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def half(x):\n-    return x // 2\n+    return x / 2\n"
TEST_PATCH = """diff --git a/tests/test_calc.py b/tests/test_calc.py
--- a/tests/test_calc.py
+++ b/tests/test_calc.py
@@ -3,3 +3,7 @@

 def test_even():
     assert half(4) == 2
+
+
+def test_odd():
+    assert half(3) == 1.5
"""
BENCH = {
    "instance_id": "a__calc-1",
    "repo": "a/calc",
    "problem_statement": "half rounds down",
    "patch": PATCH,
    "test_patch": TEST_PATCH,
    "FAIL_TO_PASS": '["tests/test_calc.py::test_odd"]',
    "PASS_TO_PASS": ["tests/test_calc.py::test_even"],
}
COMMIT = {
    "file_diffs": [
        {"header": {"file": {"path": "calc.py"}}, "old_file_content": CALC, "new_file_content": MENDED},
        {"header": {"file": {"path": "tests/test_calc.py"}}, "new_file_content": "x"},
        {"header": {"file": {"path": "gone.py"}}, "new_file_content": None},
    ]
}
R2E_TEST = TEST + "\n\nclass TestHalf:\n    def test_odd(self):\n        assert half(3) == 1.5\n"
R2E = {
    "repo_name": "calc",
    "commit_hash": "abc",
    "problem_statement": "half rounds down",
    "execution_result_content": json.dumps({"test_file_names": ["test_1.py"], "test_file_codes": [R2E_TEST]}),
    "expected_output_json": json.dumps({"test_even": "PASSED", "TestHalf.test_odd": "PASSED", "test_x": "FAILED"}),
    "parsed_commit_content": json.dumps(COMMIT),
}


@pytest.fixture
def repositories(tmp_path):
    place = tmp_path / BENCH["instance_id"]
    for path, text in {**FILES, ".git/packed": "the golden patch"}.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    (place / "run").write_text("#!/bin/sh\n")
    (place / "run").chmod(0o755)
    (place / "link").symlink_to("/etc/passwd")
    return str(tmp_path)


def archive(folder, name, **files):
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as made:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(text)
            made.addfile(member, io.BytesIO(text.encode()))


def test_a_row_of_swe_bench_finds_its_repository_and_keeps_its_tests_hidden(repositories):
    task = read_task(BENCH, repositories, 16)
    assert task.hidden.tests == ["tests/test_calc.py::test_odd", "tests/test_calc.py::test_even"]
    assert dict(task.hidden.test_files) == {"tests/test_calc.py": TEST + ADDED}
    assert task.hidden.golden["calc.py"] == MENDED
    assert sorted(task.tree.files) == ["repo/calc.py", "repo/run", "repo/tests/test_calc.py"]
    assert task.tree.files["repo/tests/test_calc.py"] == TEST
    assert task.tree.executable == {"repo/run"}


def test_a_row_of_r2e_gym_names_tests_without_files(tmp_path):
    archive(tmp_path, "abc", **{"abc/calc.py": CALC, "abc/gone.py": ""})
    task = read_task(R2E, str(tmp_path), 16)
    assert task.hidden.tests == ["r2e_tests/test_1.py::test_even", "r2e_tests/test_1.py::TestHalf::test_odd"]
    assert dict(task.hidden.golden) == {"calc.py": MENDED}
    assert sorted(task.tree.files) == ["repo/calc.py", "repo/gone.py"]


@pytest.mark.parametrize(("changed", "told"), [
    ({"instance_id": "nowhere"}, "no repository"),
    ({"instance_id": "../a"}, "names no repository"),
    ({"instance_id": None}, "names no repository"),
    ({"files": {"/etc/x": ""}}, "map paths to texts"),
    ({"files": {"a": 1}}, "map paths to texts"),
    ({"files": []}, "is no mapping"),
    ({"files": {"calc.py": CALC, "calc.py/x": ""}}, "map paths to texts"),
    ({"files": {"calc.py": CALC}}, "doesn't fit the repository"),
    ({"patch": PATCH.replace("x // 2", "x % 2")}, "doesn't fit the repository"),
    ({"test_patch": None}, "is no text"),
    ({"FAIL_TO_PASS": "[broken"}, "broken JSON"),
    ({"FAIL_TO_PASS": [], "PASS_TO_PASS": []}, "tests are none"),
    ({"FAIL_TO_PASS": ["tests/test_other.py::test_x"]}, "stands in no file"),
    ({"FAIL_TO_PASS": 3}, "is no list"),
    ({"test_files": {}}, "test files must map"),
])  # fmt: skip
def test_a_row_that_can_not_be_played_is_refused(repositories, changed, told):
    with pytest.raises(DataError, match=told):
        read_task({**BENCH, **changed}, repositories, 16)


@pytest.mark.parametrize("field", ["FAIL_TO_PASS", "test_patch"])
def test_a_row_without_a_field_is_refused(repositories, field):
    row = {key: value for key, value in BENCH.items() if key != field}
    with pytest.raises(DataError, match="tests"):
        read_task(row, repositories, 16)


def test_a_row_without_a_place_for_repositories_and_one_that_is_too_large_are_refused(repositories):
    with pytest.raises(DataError, match="without its repository"):
        read_task(BENCH, None, 16)
    with pytest.raises(DataError, match="doesn't fit the sandbox"):
        read_task({**BENCH, "files": {**FILES, "big": "x" * (13 << 20)}}, None, 16)


def test_an_archive_that_leads_out_of_its_folder_or_is_broken_is_refused(tmp_path):
    archive(tmp_path, "out", **{"../x": "y"})
    with pytest.raises(DataError, match="no file of it"):
        read_repository(str(tmp_path), "out")
    (tmp_path / "cut.tar").write_bytes(b"x" * 700)
    with pytest.raises(DataError, match="can't be read"):
        read_repository(str(tmp_path), "cut")


def test_what_is_judged_of_a_tree_follows_links_within_it_and_none_that_lead_out():
    links = {"repo/a.py": "calc.py", "repo/b.py": "/etc/passwd", "repo/c.py": "../../x", "repo/d/e.py": "../calc.py"}
    tree = Tree({**tree_of(FILES).files, "other": "x"}, links=links)
    assert tree.repository() == {**FILES, "a.py": CALC, "d/e.py": CALC}
    assert Tree({"x" * 1001: ""}).problem(16)
    assert Tree({f"f{i}": "" for i in range(4000)}).problem(16)
    assert tree.problem(16) == ""
