"""Runs inside the sandbox, as its program: one command of a shell over a tree of files, and what it made of them.

It reads its orders from its standard input and writes one JSON object. Whatever else the command started is killed
before the tree is looked at. All files are of one old date, so what has another, or another size or number, is changed.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_DATE_NS = 1_700_000_000 * 10**9
_PIECE = 1 << 16

Facts = tuple[int, int, int]


def entries(top: str, left_out: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all that lies below a folder, but for one name directly in it; its folders are made readable."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        place = os.path.join(top, folder)
        with suppress(OSError):
            os.chmod(place, 0o755)
        for name in sorted(os.listdir(place)):
            path = f"{folder}/{name}" if folder else name
            if path == left_out:
                continue
            facts = os.lstat(os.path.join(top, path))
            yield path, facts
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(path)


def set_up(order: dict[str, Any], top: str) -> dict[str, Facts]:
    """Make what files alone don't tell of a tree; return the facts by which a change is seen."""
    for folder in order["folders"]:
        os.makedirs(os.path.join(top, folder), exist_ok=True)
    for path, target in order["links"].items():
        os.makedirs(os.path.dirname(os.path.join(top, path)), exist_ok=True)
        os.symlink(target, os.path.join(top, path))
    for path in order["executable"]:
        os.chmod(os.path.join(top, path), 0o755)
    facts = {}
    os.utime(top, ns=(_DATE_NS, _DATE_NS))
    for path, found in entries(top, order["own"]):
        os.utime(os.path.join(top, path), ns=(_DATE_NS, _DATE_NS), follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            facts[path] = (found.st_ino, _DATE_NS, found.st_size)
    tools = os.path.join(top, order["own"], "bin")
    for name in ("python", "python3"):
        os.symlink(sys.executable, os.path.join(tools, name))
    os.chmod(os.path.join(tools, "pytest"), 0o755)
    return facts


class Heard:
    """The beginning and the end of what is said, and how much of it there was.

    Args:
        most: bytes kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._first, self._last, self._count = most, bytearray(), bytearray(), 0

    def listen(self, descriptor: int) -> None:
        """Take in all that is said until nobody can say any more."""
        while piece := os.read(descriptor, _PIECE):
            self._count += len(piece)
            room = self._most // 2 - len(self._first)
            self._first += piece[:room] if room > 0 else b""
            self._last += piece[max(room, 0) :]
            del self._last[: -(self._most // 2)]

    def text(self) -> str:
        """Return it, with a word on what is left out of its middle."""
        first, last = (bytes(part).decode("utf-8", "replace") for part in (self._first, self._last))
        lost = self._count - len(self._first) - len(self._last)
        return f"{first}\n[... {lost} bytes left out ...]\n{last}" if lost else first + last


def run(command: str, folder: str, order: dict[str, Any], top: str) -> tuple[int, str]:
    """Run a command to its end, and end all else; return its exit status and what it said."""
    own = os.path.join(top, order["own"])
    packages = [os.environ.get("PYTHONPATH", ""), os.path.join(own, "lib")]
    variables = {
        **os.environ,
        "PATH": f"{own}/bin:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, packages)),
        "PWD": folder,  # /tmp is a link; the policy is told of no other name
        "PAGER": "cat",
        "TERM": "dumb",
    }
    heard = Heard(order["most_said"])
    read, write = os.pipe()
    shell = subprocess.Popen(
        ["/bin/bash", "-c", command],
        cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=write, stderr=write,
    )  # fmt: skip
    os.close(write)
    listener = threading.Thread(target=heard.listen, args=(read,))
    listener.start()
    status = shell.wait()
    assert os.getpid() == 1, "only where no others live may all others be killed"
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    listener.join()
    return status, heard.text()


def look(order: dict[str, Any], top: str, before: dict[str, Facts]) -> dict[str, Any]:
    """Return the tree as it is now; of files that didn't change, only that they are there."""
    told: dict[str, Any] = {"files": {}, "executable": [], "links": {}, "folders": [], "gone": []}
    kept, folders, holding = set(), set(), set()
    for path, found in entries(top, order["own"]):
        place = os.path.join(top, path)
        holding.add(path.rpartition("/")[0])
        if stat.S_ISLNK(found.st_mode):
            told["links"][path] = os.readlink(place)
        elif stat.S_ISDIR(found.st_mode):
            folders.add(path)
        elif stat.S_ISREG(found.st_mode):  # a pipe or a socket means nothing to the next run
            kept.add(path)
            if found.st_mode & stat.S_IXUSR:
                told["executable"].append(path)
            if before.get(path) != (found.st_ino, found.st_mtime_ns, found.st_size):
                os.chmod(place, 0o700)
                with open(place, "rb") as file:
                    told["files"][path] = file.read().decode("utf-8", "surrogateescape")
    told["folders"] = sorted(folders - holding)
    told["gone"] = sorted(before.keys() - kept)
    return told


def main() -> None:
    """Do one turn."""
    order, top = json.load(sys.stdin), "/tmp"
    before = set_up(order, top)
    folder = os.path.join(top, order["folder"])
    os.makedirs(folder, exist_ok=True)  # an earlier command may have removed it
    status, said = run(order["command"], folder, order, top)
    report = json.dumps({"status": status, "said": said, **look(order, top, before)})
    if len(report) > order["most_told"]:
        report = json.dumps({"problem": f"it changed files of {len(report)} bytes, at most {order['most_told']}"})
    sys.stdout.write(report)


main()
