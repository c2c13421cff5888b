"""Runs inside the sandbox as `python -m pytest`, behind `runner.py`: tests that the policy sees, and how they do.

It knows paths, ids, `-k` and `-x`; other options change nothing. It has no say in what a sample is worth.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # their texts run before this one
    from nemo_cascade.rewards.swe.runner import is_unittest, load, outcome
    from nemo_cascade.sandbox.inside.foreign import Attempt

_WITH_VALUE = ("-k", "-m", "-n", "-o", "-p", "-c", "--tb", "--rootdir", "--maxfail", "--timeout", "-W")


def test_files(place: str) -> Iterator[str]:
    """Yield the test files of a folder, or the file itself."""
    if not os.path.isdir(place):
        yield place
        return
    for folder, folders, names in os.walk(place):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(names):
            if name.endswith("_test.py") or (name.startswith("test_") and name.endswith(".py")):
                yield os.path.normpath(os.path.join(folder, name))


def ids_of(path: str) -> Iterator[str]:
    """Yield the ids of a file's tests."""
    module = load(path)
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type) and (is_unittest(value) or name.startswith("Test")):
            yield from (f"{path}::{name}::{test}" for test in dir(value) if test.startswith("test"))
        elif name.startswith("test") and callable(value):
            yield f"{path}::{name}"


def named(arguments: list[str]) -> tuple[list[str], str, bool]:
    """Return the places that arguments name, the word that ids must hold, and whether the first failure is the end."""
    places, word, rest = [], "", list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in _WITH_VALUE and rest:
            value = rest.pop(0)
            word = value if argument == "-k" else word
        elif not argument.startswith("-"):
            places.append(os.path.normpath(argument))
    return places or ["."], word, "-x" in arguments


def run_tests(arguments: list[str]) -> int:
    """Run tests and tell how each did; return the exit status."""
    places, word, once = named(arguments)
    passed = failed = 0
    sys.path.insert(0, os.getcwd())
    for place in places:
        path, colons, _ = place.partition("::")
        for file in [path] if colons else test_files(path):
            with Attempt(BaseException) as attempt:  # a file that can't be imported is a failure like any other
                ids = [place] if colons else list(ids_of(os.path.relpath(file)))
            if attempt.error is not None:
                failed += 1
                sys.stdout.write(f"{file} ERROR\n    {type(attempt.error).__name__}: {attempt.error}\n")
                continue
            for test in [one for one in ids if word in one]:
                _, reason = outcome(test)
                passed, failed = passed + (not reason), failed + bool(reason)
                sys.stdout.write(f"{test} {'FAILED' if reason else 'PASSED'}\n" + (f"    {reason}\n" if reason else ""))
                if reason and once:
                    break
    sys.stdout.write(f"{failed} failed, {passed} passed\n")
    return 1 if failed else 0 if passed else 5


if __name__ == "__main__":
    sys.exit(run_tests(sys.argv[1:]))
