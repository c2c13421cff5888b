"""Runs inside the sandbox: try a test that a policy wrote, several times on each of two trees of files.

Input: the length of what follows in 16 digits; JSON {"tools": texts of our own that run in this namespace, "pytest":
text of its stand-in, "path" and "test": of the test's file, "trees": two of {"sources", "packages", "paths"} (see
`conceal`; other files of theirs lie in the folders 0/ and 1/), "order": a tree's number for each run, "due": for each
tree whether the test shall pass on it, "all": whether a test that passes where it shall fail is still tried on the
other tree, "run_s": CPU seconds of a run}; and the nonce, which is read when all runs have ended.

Report on the first stdout: one line of the nonce and JSON {"parses": bool, "runs": [[tree, reason of the failure or an
empty text], ...]}; the runs end at the first that doesn't do what is due. What the test prints goes to stderr.

Each run is a fork in a folder of its own. It has left its parent's frames and descriptors before it loads the test: it
knows neither which tree it has, nor which run it is, nor the nonce.
"""

import json
import math
import os
import random
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

outcome: Any = None  # of runner.py
_arguments: Any = None
use_pytest: Any = None
conceal: Any = None  # of concealed.py
hidden: Any = None
load_mentioned: Any = None
lookers: Any = None

_LENGTH_DIGITS, _NONCE_LETTERS = 16, 32
_PASSED = b"passed\n"
_MOST_REASON = 2000
_OVERDUE = "the run took too long"
_MOST_OVERDUE = 2  # a tree whose fault is that it hangs shows it twice, which takes time enough
_TOOLS = "<tools of the sandbox>"


def make_steady() -> None:
    """Draw the same random numbers in every run: what differs between runs is the tree alone."""
    stream = random.Random(0)
    seed = random.Random.seed

    def steady_seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed(self, stream.getrandbits(64) if a is None else a, version)

    vars(os).update(urandom=stream.randbytes, getrandom=lambda size, flags=0: stream.randbytes(size))
    vars(random).update(_urandom=stream.randbytes)
    random.Random.seed = steady_seed  # type: ignore[method-assign, assignment]
    random.seed(0)


def parses(text: str, path: str) -> bool:
    """Tell whether a text is Python."""
    try:
        compile(text, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def exactly(count: int) -> bytes:
    """Read from descriptor 0, past sys.stdin and its buffer."""
    data = b""
    while len(data) < count and (piece := os.read(0, count - len(data))):
        data += piece
    return data


def all_runs() -> tuple[int, dict[str, Any]] | None:
    """Run what is ordered and report; in each run's fork, return at once what it is to do."""
    order = json.loads(exactly(int(exactly(_LENGTH_DIGITS))))
    report = os.dup(1)
    os.dup2(2, 1)
    for tool in order["tools"]:
        exec(compile(tool, _TOOLS, "exec", dont_inherit=True), globals())
    runs: list[list[Any]] = []
    good = parses(order["test"], order["path"])
    if good:
        use_pytest(order["pytest"])
        load_mentioned([text for tree in order["trees"] for text in tree["sources"].values()])
    bodies = [hidden(tree["sources"], tree["paths"], order["path"]) for tree in order["trees"]] if good else []
    may_look = lookers([_arguments], bodies, order["path"])
    settled: set[int] = set()
    overdue = 0
    for number in order["order"] if good else ():
        if number in settled:
            continue
        reader, writer = os.pipe()
        folder = _folder(str(number))
        pid = os.fork()
        if pid == 0:
            os.chdir(folder)
            _shut_off(order["run_s"], (reader, report))
            tree = order["trees"][number]
            told = {"bodies": bodies[number], "packages": tree["packages"], "paths": tree["paths"]}
            return writer, {**told, "may_look": may_look, "path": order["path"]}
        os.close(writer)
        # A run that shall pass may be slow for want of a processor; one that hangs hangs on the other tree, too.
        slack = len(order["order"]) // 2 if order["due"][number] else 1
        reason = _reason(reader, pid, 3 * order["run_s"] * slack + 1)
        runs.append([number, reason])
        if (reason == "") != order["due"][number]:
            if order["due"][number] or not order["all"]:
                break
            settled.add(number)
        overdue += reason == _OVERDUE
        if overdue == _MOST_OVERDUE:
            settled.add(number)
    nonce = exactly(_NONCE_LETTERS)
    os.write(report, nonce + json.dumps({"parses": good, "runs": runs}).encode() + b"\n")
    return None


def _folder(data: str) -> str:
    """Make a new folder with the tree's other files in it."""
    folder = os.urandom(8).hex()
    if os.path.isdir(data):
        import shutil

        shutil.copytree(data, folder)
    else:
        os.mkdir(folder)
    return folder


def _shut_off(run_s: float, descriptors: tuple[int, ...]) -> None:
    """Take from a run what it needs nothing of, and what it may use no more of."""
    os.setpgid(0, 0)
    for descriptor in descriptors:
        os.close(descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    seconds = math.ceil(run_s)
    if hard == resource.RLIM_INFINITY or seconds + 1 < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _reason(reader: int, pid: int, wall_s: float) -> str:
    """Wait for a run to report, and end it; returns why it failed, an empty text if it passed."""
    end, told, late = time.monotonic() + wall_s, b"", False
    while not told.endswith(b"\n") and len(told) < _MOST_REASON:
        ready = select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]
        late = not ready
        piece = os.read(reader, _MOST_REASON) if ready else b""
        if not piece:
            break
        told += piece
    os.close(reader)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if told == _PASSED:
        return ""
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not told and (late or ended == signal.SIGXCPU):
        return _OVERDUE
    return told.decode("utf-8", "replace").strip()[:500] or f"the run ended early (signal {ended})"


def one_run(writer: int, task: dict[str, Any]) -> None:
    """Run the test on one tree and say how it went. Never returns."""
    path = task["path"]
    make_steady()
    sys.path.insert(0, os.getcwd())
    conceal(task["bodies"], task["packages"], task["paths"], task["may_look"])
    reason = outcome(path)[1]
    with suppress(OSError):  # a test may have closed it: then it has failed
        os.write(writer, (reason.replace("\n", " ") or "passed").encode("utf-8", "replace") + b"\n")
    os._exit(0)


if __name__ == "__main__":
    task = all_runs()
    if task is not None:
        one_run(*globals().pop("task"))
