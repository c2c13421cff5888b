"""Run one command over a tree in the sandbox.

The sandbox keeps nothing: each command gets the tree as the last one left it, in a fresh /tmp without a network, and
its changes are read off when it and all that it started have ended. What it reports is the policy's own affair: it
says what the policy is shown and what its tree is like, never what a sample is worth.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nemo_cascade.environments.swe.tree import REPOSITORY, Tree
from nemo_cascade.rewards.sandboxed import Allowance, ConfinedRuns
from nemo_cascade.rewards.swe import runner
from nemo_cascade.rewards.swe.trial import file_bytes
from nemo_cascade.sandbox.inside import foreign
from nemo_cascade.sandbox.program import Outcome, Program, Status

_OWN = ".shell"
_ENTRY = "run_turn_of_the_sandbox.py"
# JSON writes a byte that is no text as six characters; few are.
_TOLD_PER_MIB = 3 << 19
_OVER = {
    Status.TIMEOUT: "it took too long",
    Status.MEMORY: "it took too much memory",
    Status.OUTPUT: "it wrote too much",
}
_MAIN = """import os, sys
here = os.path.dirname(os.path.abspath(__file__))
for name in ("foreign", "runner", "visible_tests"):
    with open(os.path.join(here, name + ".py")) as file:
        exec(compile(file.read(), name, "exec"), globals())
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a command.

    Attributes:
        said: what the policy is shown.
        tree: what it left; of one that went over a limit, what was there before it.
    """

    said: str
    tree: Tree


class Shell:
    """Runs commands.

    Args:
        command_s: CPU seconds of the commands of one turn.
        memory_mib: memory of a command.
        files_mib: size of its /tmp, the repository included.
        most_said: bytes of its output that are shown.
    """

    def __init__(self, command_s: float, memory_mib: int, files_mib: int, most_said: int) -> None:
        self._command_s, self._most_said, self.files_mib = command_s, most_said, files_mib
        self._runs = ConfinedRuns(memory_mib, files_mib=files_mib)

    def allowance(self) -> Allowance:
        """Return what the commands of one turn may use together."""
        return self._runs.allowance(self._command_s)

    def run(self, command: str, tree: Tree, allowance: Allowance) -> Ran:
        """Run a command in the repository's folder.

        Args:
            command: for bash.
            tree: what it finds.
            allowance: what is left for it.

        Raises:
            VerifierError: the sandbox broke, or gives no processes of one's own (kind `infrastructure`).
        """
        self._runs.need_namespaces()
        if allowance.spent:
            return Ran("Error: the commands of this turn took too long; this one isn't run", tree)
        most_told = _TOLD_PER_MIB * self.files_mib
        order = {
            "command": command, "folder": REPOSITORY, "own": _OWN, "most_said": self._most_said, "most_told": most_told,
            "executable": sorted(tree.executable), "links": dict(tree.links), "folders": sorted(tree.folders),
        }  # fmt: skip
        files = {**{path: file_bytes(text) for path, text in tree.files.items()}, **_tools()}
        program = Program("python", _text("turn"), json.dumps(order), files, entry=_ENTRY)
        outcome = self._runs.run(program, self._command_s, (most_told >> 10) + 1, allowance)
        if outcome.status in _OVER:
            return Ran(f"Error: the command was stopped, {_OVER[outcome.status]}; what it did is undone", tree)
        try:
            return self._read(outcome, tree)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return Ran(f"Error: the command brought its shell down ({error!s:.200}); what it did is undone", tree)

    def _read(self, outcome: Outcome, tree: Tree) -> Ran:
        if not outcome.ok:
            raise ValueError(f"{outcome.detail} {outcome.stderr.strip()[-150:]}")
        told = json.loads(outcome.stdout)
        if "problem" in told:
            return Ran(f"Error: {told['problem']}; what it did is undone", tree)
        after = _after(tree, told)
        if problem := after.problem(self.files_mib):
            return Ran(f"Error: the command left {problem}; what it did is undone", tree)
        status, said = int(told["status"]), str(told["said"]).rstrip()
        ended = f"\n[exit status {status}]" if status else ""
        return Ran(f"{said}{ended}".strip() or "(no output)", after)


def _after(tree: Tree, told: Mapping[str, Any]) -> Tree:
    """Return a tree with what is told of its changes."""
    gone = set(told["gone"])
    files = {path: text for path, text in tree.files.items() if path not in gone}
    files |= {_sound(path): str(text) for path, text in told["files"].items()}
    links = {_sound(path): str(target) for path, target in told["links"].items()}
    executable = frozenset(path for path in told["executable"] if path in files)
    return Tree(files, executable, links, frozenset(_sound(path) for path in told["folders"]))


def _sound(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or not all(parts) or {"..", "."} & set(parts) or "\0" in path:
        raise ValueError(f"no path of the tree: {path!r:.100}")
    return path


@cache
def _tools() -> dict[str, bytes]:
    """Return the shell's own files: pytest, as a program and as the module that tests import."""
    swe = Path(runner.__file__)
    package = {
        "__init__": swe.with_name("standin_pytest.py").read_text(encoding="utf-8"),
        "__main__": _MAIN,
        "foreign": Path(foreign.__file__).read_text(encoding="utf-8"),
        "runner": swe.read_text(encoding="utf-8"),
        "visible_tests": _text("visible_tests"),
    }
    files = {f"{_OWN}/lib/pytest/{name}.py": text.encode() for name, text in package.items()}
    return {**files, f"{_OWN}/bin/pytest": b'#!/bin/sh\nexec python -m pytest "$@"\n'}


@cache
def _text(name: str) -> str:
    """Return the text of a module that runs inside the sandbox."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
