"""Read a row of an agent's task, as SWE-bench, SWE-Gym and R2E-Gym write it, or with our own keys.

    what                     our key          SWE-bench, SWE-Gym    R2E-Gym
    repository               files            folder or archive named by instance_id (R2E-Gym: by commit_hash)
    tests' files             test_files       test_patch            execution_result_content
    must pass                fail_to_pass     FAIL_TO_PASS          expected_output_json: those that are PASSED
    must still pass          pass_to_pass     PASS_TO_PASS
    golden patch, if any     fixed_files      patch                 parsed_commit_content

Lists and objects may be JSON texts. R2E-Gym names its tests without their files, `Class.test`.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nemo_cascade.environments.swe.repository import Repository, read_repository
from nemo_cascade.environments.swe.tree import Tree, folders_above, tree_of
from nemo_cascade.errors import DataError
from nemo_cascade.rewards.swe.hidden import Hidden
from nemo_cascade.rewards.swe.modules import belongs_to_tests
from nemo_cascade.rewards.swe.paths import unwritable
from nemo_cascade.rewards.swe.pytest_ids import pytest_id
from nemo_cascade.rewards.swe.unified_diff import PatchError, apply_patch

_R2E_FOLDER = "r2e_tests"


@dataclass(frozen=True, slots=True)
class AgentTask:
    """A task as it is played.

    Attributes:
        tree: what each sample begins with.
        hidden: what judges it, of which nothing stands in the tree.
    """

    tree: Tree
    hidden: Hidden


def read_task(row: Mapping[str, Any], repositories: str | None, most_mib: int) -> AgentTask:
    """Read a row.

    Args:
        row: the task's.
        repositories: folder of the repositories of rows without `files`.
        most_mib: size of the /tmp that the repository must fit.

    Raises:
        DataError: a field is missing or broken, there is no such repository, or it doesn't fit.
    """
    repository = _repository(row, repositories)
    files = dict(repository.files)
    test_files = _test_files(row, files)
    visible = {path: text for path, text in files.items() if belongs_to_tests(path)}
    golden = _golden(row, files)
    tests = list(_tests(row, {**visible, **test_files}))
    tree = tree_of(files, repository.executable)
    if problem := tree.problem(most_mib):
        mend = "raise the environment's files_mib, or leave the row out"
        raise DataError("a repository doesn't fit the sandbox", value=problem, limit=f"{most_mib} MiB", mend=mend)
    return AgentTask(tree, Hidden(files, test_files, tests, golden))


def _repository(row: Mapping[str, Any], repositories: str | None) -> Repository:
    if "files" in row:
        files = _decoded(row, "files", Mapping)
        folders = folders_above(files)
        for path, text in files.items():
            if not isinstance(text, str) or unwritable(path, ()) or path in folders:
                raise DataError("field 'files' must map paths to texts", value=f"{path!r:.200}")
        return Repository(files, ())
    name = row.get("instance_id") or row.get("commit_hash")
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        raise DataError("a row names no repository", value=name, mend="give `files`, or `instance_id`")
    if repositories is None:
        mend = "give `files` in the row, or the environment's setting `repositories`"
        raise DataError("a row without its repository", value=name, mend=mend)
    return read_repository(repositories, name)


def _test_files(row: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, str]:
    """Return path -> text of the files that are put in place when the tests run."""
    if "test_files" in row:
        found = dict(_decoded(row, "test_files", Mapping))
    elif "test_patch" in row:
        after = _patched(files, row["test_patch"], "test_patch")
        found = {path: text for path, text in after.items() if files.get(path) != text}
    elif "execution_result_content" in row:
        told = _decoded(row, "execution_result_content", Mapping)
        names, codes = told.get("test_file_names"), told.get("test_file_codes")
        if not isinstance(names, list) or not isinstance(codes, list) or len(names) != len(codes):
            raise DataError("field 'execution_result_content' has no test files", value=f"{names!r:.200}")
        found = {f"{_R2E_FOLDER}/{str(name).rpartition('/')[2]}": code for name, code in zip(names, codes, strict=True)}
    else:
        raise DataError("a row without tests", limit="test_files, test_patch or execution_result_content")
    if not found or not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise DataError("a row's test files must map paths to texts", value=f"{sorted(map(str, found))!r:.200}")
    return found


def _tests(row: Mapping[str, Any], where: Mapping[str, str]) -> Iterator[str]:
    """Yield the ids of the tests that must pass."""
    if "expected_output_json" in row:
        expected = _decoded(row, "expected_output_json", Mapping)
        named = [str(test).partition(" - ")[0] for test, status in expected.items() if status == "PASSED" and test]
        where = {path: text for path, text in where.items() if path.startswith(f"{_R2E_FOLDER}/")}
        named = [_placed(test, where) for test in named]
    else:
        lists = [key for pair in (("fail_to_pass", "FAIL_TO_PASS"), ("pass_to_pass", "PASS_TO_PASS")) for key in pair]
        given = [key for key in lists if key in row]
        if not given or given[0].lower() != "fail_to_pass":
            raise DataError("a row doesn't say which tests must pass", value=given, limit="FAIL_TO_PASS")
        named = [str(test) for key in given for test in _decoded(row, key, list)]
    if not named:
        raise DataError("a row whose tests are none", limit="at least one test that must pass")
    for test in dict.fromkeys(named):
        found = pytest_id(test, where)
        if found.partition("::")[0] not in where:
            raise DataError("a test stands in no file of the row", value=test, limit=f"{sorted(where)!r:.300}")
        yield found


def _placed(test: str, where: Mapping[str, str]) -> str:
    """Return the id of `Class.test` or `test`, perhaps with a case's values behind it."""
    name, bracket, values = test.partition("[")
    first, _, method = name.partition(".")
    for path, text in where.items():
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError):
            continue
        kinds = (ast.ClassDef,) if method else (ast.FunctionDef, ast.AsyncFunctionDef)
        if any(isinstance(node, kinds) and node.name == first for node in body):
            return f"{path}::{'::'.join(filter(None, (first, method.replace('.', '::'))))}{bracket}{values}"
    return test


def _golden(row: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, str] | None:
    """Return the files after the golden patch; None where the row has none."""
    if "fixed_files" in row:
        return {**files, **_decoded(row, "fixed_files", Mapping)}
    if isinstance(row.get("patch"), str):
        return _patched(files, row["patch"], "patch")
    if "parsed_commit_content" not in row:
        return None
    golden = dict(files)
    for diff in _decoded(row, "parsed_commit_content", Mapping).get("file_diffs") or ():
        path = ((diff.get("header") or {}).get("file") or {}).get("path")
        if not isinstance(path, str):
            raise DataError("field 'parsed_commit_content' has a change without its file", value=f"{diff!r:.200}")
        if belongs_to_tests(path):
            continue
        if diff.get("new_file_content") is None:
            golden.pop(path, None)
        else:
            golden[path] = str(diff["new_file_content"])
    return golden


def _patched(files: Mapping[str, str], patch: Any, name: str) -> dict[str, str]:
    if not isinstance(patch, str):
        raise DataError(f"field {name!r} is no text", value=type(patch).__name__)
    try:
        return apply_patch(files, patch)
    except PatchError as error:
        mend = "the repository must be that of the row's base_commit"
        raise DataError(f"field {name!r} doesn't fit the repository", value=str(error), mend=mend) from error


def _decoded(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """Return a field that is a list or an object, or a JSON text of one."""
    value = row[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"field {name!r} is broken JSON", value=str(error)) from error
    if not isinstance(value, kind):
        raise DataError(f"field {name!r} is no {kind.__name__.lower()}", value=type(value).__name__)
    return value
