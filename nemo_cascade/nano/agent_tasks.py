"""Agentic software engineering on real little repositories: thirteen packages, three seeded defects in each.

A repository's text file (`repositories/*.yaml`) holds the package as it should be, tests that an agent sees, hidden
tests, and the defects: which lines they take the place of, and the issue that somebody would write about each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nemo_cascade.config.reading import libyaml
from nemo_cascade.data.prompts.agent_rows import AGENT_TOOLS, agent_messages

_FOLDER = Path(__file__).with_name("repositories")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RepositoryTask:
    """A repository with one defect.

    Attributes:
        instance_id: its name.
        problem: the issue.
        files: the repository as the agent finds it.
        test_files: the hidden tests.
        fails: ids of hidden tests that the defect fails.
        passes: ids of the others.
        path: the file with the defect.
        fixed: that file without the defect.
    """

    instance_id: str
    problem: str
    files: Mapping[str, str]
    test_files: Mapping[str, str]
    fails: tuple[str, ...]
    passes: tuple[str, ...]
    path: str
    fixed: str


def repository_tasks() -> list[RepositoryTask]:
    """Return all tasks, ordered by their names."""
    return [task for place in sorted(_FOLDER.glob("*.yaml")) for task in _tasks_of(place)]


@cache
def _tasks_of(place: Path) -> tuple[RepositoryTask, ...]:
    told = libyaml.parsed(place.read_text(encoding="utf-8"))
    (test_path, test_text), *_ = told["hidden"].items()
    named = [line[4:].partition("(")[0] for line in test_text.split("\n") if line.startswith("def test")]
    tasks = []
    for number, defect in enumerate(told["defects"], 1):
        text = told["files"][defect["path"]]
        for one in (defect, *defect.get("also", ())):
            assert text.count(one["right"]) == 1, f"{place.stem}-{number}: what is right must stand there once"
            text = text.replace(one["right"], one["wrong"])
        fails = [name for name in named if name in defect["fails"]]
        tasks.append(
            RepositoryTask(
                instance_id=f"{place.stem}-{number}",
                problem=defect["problem"],
                files={**told["files"], defect["path"]: text},
                test_files=told["hidden"],
                fails=tuple(f"{test_path}::{name}" for name in fails),
                passes=tuple(f"{test_path}::{name}" for name in named if name not in fails),
                path=defect["path"],
                fixed=told["files"][defect["path"]],
            )
        )
    return tuple(tasks)


def agent_prompt(task: RepositoryTask) -> Row:
    """Make a prompt row of the environment `swe_agent`."""
    return {
        "messages": agent_messages(task.problem),
        "tools": AGENT_TOOLS,
        "instance_id": task.instance_id,
        "files": dict(task.files),
        "test_files": dict(task.test_files),
        "fail_to_pass": list(task.fails),
        "pass_to_pass": list(task.passes),
        "fixed_files": {task.path: task.fixed},
    }
