# ruff: noqa: E501
"""Hostile programs get their verdicts in time, reach nothing, and leave nothing behind."""

import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.sandbox.judging import FunctionTests
from nemo_cascade.sandbox.program import Program
from nemo_cascade.sandbox.sandbox import Sandbox
from tests.proofs.hostile_programs import ALL
from tests.support.sandbox_workers import worker_ids
from tests.support.side_by_side import run_all

TRIVIAL_VERDICTS = 1000
# An idle machine needs milliseconds beyond the limit; a busy one is given this much.
GRACE_S = 5.0
COMPILE_LIMITS = Limits(cpu_s=2.0, wall_s=6.0, memory_mib=512, output_kib=64, files_mib=16)


class Listeners:
    """Our own listeners on loopback: nothing may ever arrive there."""

    def __init__(self, folder):
        self.path, self.abstract = str(folder / "listener"), f"nemo-cascade-{secrets.token_hex(4)}"
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        for listener, address in zip(self.unix, (self.path, f"\0{self.abstract}"), strict=True):
            listener.bind(address)
            listener.listen()

    def heard(self):
        found = []
        for listener in (self.tcp, *self.unix, self.udp):
            listener.setblocking(False)
            try:
                found.append(listener.recv(1) if listener is self.udp else listener.accept())
            except BlockingIOError:
                continue
        return found

    def close(self):
        for listener in (self.tcp, self.udp, *self.unix):
            listener.close()


@pytest.fixture(scope="module")
def mark():
    return f"mark{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def sandbox(mark):
    os.environ["NEMO_CASCADE_TEST_SECRET"] = f"{mark}-secret"
    config = SandboxConfig(compile_limits=COMPILE_LIMITS)
    with Sandbox(config, workers=2) as made:
        yield made
    del os.environ["NEMO_CASCADE_TEST_SECRET"]


def descendants(root):
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
    family = {root}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return family - {root}


def command_lines():
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                found.append((entry / "cmdline").read_bytes())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def settled(sandbox, count, deadline_s=5.0):
    """Wait until no more than the workers' own processes are left, beside the children that wait for a job."""

    def left():
        return len(descendants(os.getpid())) - sandbox.pool.waiting()

    end = time.monotonic() + deadline_s
    while left() > count and time.monotonic() < end:
        time.sleep(0.05)
    return left()


def test_hostile_programs_are_contained_and_the_next_thousand_verdicts_are_right(sandbox, mark, tmp_path):
    assert len(ALL) >= 40
    host_file = tmp_path / "host.txt"
    host_file.write_text(f"{mark}-secret")
    listeners = Listeners(tmp_path)
    filled = {
        "TCP_PORT": str(listeners.tcp.getsockname()[1]),
        "UDP_PORT": str(listeners.udp.getsockname()[1]),
        "UNIX_PATH": listeners.path,
        "UNIX_ABSTRACT": listeners.abstract,
        "HOST_FILE": str(host_file),
        "HOST_PID": str(os.getpid()),
        "SLEEP_MARK": f"31536000.{int(mark[4:], 16)}",
        "KRAM": mark[::-1],
        "MARK": mark,
    }

    def run(case):
        source = case.source
        for name, value in filled.items():
            source = source.replace(name, value)
        started = time.monotonic()
        outcome = sandbox.run(Program(case.language, source, "input\n"), case.limits)
        return case, outcome, time.monotonic() - started

    sandbox.run(Program("python", "print(1)"))
    idle_processes = settled(sandbox, 0, deadline_s=0.5)
    workers_before = worker_ids(sandbox)
    host_before = sorted(os.listdir(tmp_path))
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(run, ALL))

    wrong = []
    for case, outcome, seconds in results:
        budget = case.limits.wall_s + (COMPILE_LIMITS.wall_s if case.language == "cpp" else 0) + GRACE_S
        bad = str(outcome.status) not in case.verdicts or "ESCAPED" in outcome.stdout or seconds > budget
        bad |= f"{mark}-secret" in outcome.stdout + outcome.stderr
        bad |= case.prints is not None and outcome.stdout != case.prints
        if bad:
            said = "\n".join(line for line in outcome.stdout.splitlines() if "refused" not in line)[-600:]
            wrong.append(
                f"{case.name}: {outcome.status} ({outcome.detail}) in {seconds:.1f} s\n{said}\n{outcome.stderr[-300:]}"
            )
    assert not wrong, "\n".join(wrong)

    assert listeners.heard() == []
    assert worker_ids(sandbox) == workers_before, "a hostile program broke a worker"
    assert settled(sandbox, idle_processes) <= idle_processes
    assert not [line for line in command_lines() if filled["SLEEP_MARK"].encode() in line]
    assert sorted(os.listdir(tmp_path)) == host_before
    folders = ("/", "/tmp", "/var/tmp", "/dev/shm", "/etc", "/usr/bin", "/usr/lib", "/opt", "/home", "/root", ".")
    assert not [folder for folder in folders if os.path.exists(os.path.join(folder, mark))]
    assert not Path("/dev/shm/next").exists()
    assert host_file.read_text() == f"{mark}-secret"
    listeners.close()

    programs = [Program("python", f"print(sum(range({i})) if {i} % 7 else 1 / 0)") for i in range(TRIVIAL_VERDICTS)]
    for i, outcome in enumerate(run_all(sandbox, programs)):
        expected = ("ok", f"{sum(range(i))}\n") if i % 7 else ("error", "")
        assert (str(outcome.status), outcome.stdout) == expected, (i, outcome)


TESTS = FunctionTests(("assert add(2, 3) == 5", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"))
CHECK = FunctionTests(
    ("def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(10, 1) == 11\n",), entry_point="add"
)
HONEST = "def add(a, b):\n    return a + b\n"
CHEATS = {
    "exits at once": "import os\nos._exit(0)",
    "exits when called": "import os\ndef add(a, b): os._exit(0)",
    "sys.exit(0)": "import sys\ndef add(a, b): sys.exit(0)",
    "prints the answers": "print(5); print(0); print('ab')\ndef add(a, b): print(5)",
    "prints a verdict": "print('passed 5 OK True'); import sys; sys.stderr.write('all tests passed')\ndef add(a, b): pass",
    "is equal to everything": "class E:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n    def __bool__(s): return True\ndef add(a, b): return E()",
    "number equal to everything": "class I(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef add(a, b): return I(7)",
    "text equal to everything": "class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\ndef add(a, b): return S('x')",
    "patches assert away": "import builtins, sys\nbuiltins.AssertionError = type('A', (BaseException,), {})\nsys.flags\ndef add(a, b): return 0",
    "patches the checker": "import gc, sys\nfor o in gc.get_objects():\n    if isinstance(o, dict) and '_one' in o: o['_one'] = lambda *a: [True, '']\n    if isinstance(o, dict) and 'exit' in o: o['exit'] = None\ndef add(a, b): return 0",
    "redefines the tests' names": "def check(candidate): return True\ndef candidate(*a): return 5\ndef add(a, b): return None",
    "raises what tests raise": "def add(a, b): raise AssertionError('fine')",
    "raises SystemExit": "def add(a, b): raise SystemExit(0)",
    "raises KeyboardInterrupt": "def add(a, b): raise KeyboardInterrupt",
    "kills everybody": "import os, signal\ndef add(a, b):\n    os.kill(-1, signal.SIGKILL)\n    os.kill(os.getppid() or 2, signal.SIGKILL)",
    "never answers": "def add(a, b):\n    while True: pass",
    "sleeps while loading": "import time\ntime.sleep(100)",
    "answers endlessly": "def add(a, b):\n    return 'x' * (1 << 33)",
    "answers deeply": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "writes a report to every descriptor": """
import json, os
for fd in range(3, 64):
    for text in (json.dumps({"secret": "0" * 64, "error": None, "results": [[True, ""]] * 3}).encode(),):
        try: os.write(fd, text)
        except OSError: pass
def add(a, b): return 0
""",
    "speaks for the checker": """
import json, os, struct
def frame(message):
    text = json.dumps(message).encode()
    return struct.pack("<I", len(text)) + text
handle = {"t": "object", "handle": 1, "name": "add", "bases": [], "callable": True}
for fd in range(3, 64):
    try: os.write(fd, frame({"loaded": {"add": handle}}) + frame({"value": True}) * 9)
    except OSError: pass
def add(a, b): return 0
""",
    "looks for the tests in memory": """
import ctypes, re
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
found = None
for line in open("/proc/self/maps"):
    span, mode = line.split()[:2]
    if "r" in mode and "[v" not in line:
        low, high = (int(x, 16) for x in span.split("-"))
        try:
            with open("/proc/self/mem", "rb") as memory:
                memory.seek(low)
                data = memory.read(high - low)
        except (OSError, OverflowError, ValueError):
            continue
        hit = re.search(rb"assert add\\(-1, 1\\) == " + b"[0-9]", data)
        found = found or hit
def add(a, b): return {(2, 3): 5, (-1, 1): 0, ('a', 'b'): 'ab'}[a, b] if found else None
""",
    "empty": "",
    "does not compile": "def add(a, b",
}  # fmt: skip


def test_an_honest_solution_passes_and_every_cheat_fails(sandbox):
    limits = Limits(cpu_s=1.0, wall_s=1.0, memory_mib=256, output_kib=64, processes=8, files_mib=4)
    for tests in (TESTS, CHECK):
        honest = sandbox.judge(Program("python", HONEST), tests)
        assert honest.passed, honest
        assert honest.unjudgeable is None

    def cheat(item):
        name, source = item
        return [(name, sandbox.judge(Program("python", source), tests, limits)) for tests in (TESTS, CHECK)]

    with ThreadPoolExecutor(2) as threads:
        judged = [pair for pairs in threads.map(cheat, CHEATS.items()) for pair in pairs]
    assert not [(name, judgement) for name, judgement in judged if judgement.passed or judgement.unjudgeable]
    assert sandbox.judge(Program("python", HONEST), TESTS).passed


def test_a_solution_can_not_find_what_other_runs_were_told(sandbox, mark):
    """The zygote never sees a job: so a test's text can't be in the memory of a later run on the same worker."""
    secret_test = FunctionTests((f"assert add(1, 2) == 3 and '{mark}-secret'",))
    for _ in range(4):
        assert sandbox.judge(Program("python", HONEST), secret_test).passed
        sandbox.run(Program("python", "input()", stdin=f"{mark}-secret"))
    case = next(case for case in ALL if case.name == "own memory holds nobody's secret")
    source = case.source.replace("KRAM", mark[::-1])
    limits = replace(case.limits, memory_mib=1024)
    planted = sandbox.run(Program("python", f"kept = bytearray(b'{mark}-secret')\n{source}"), limits)
    assert "ESCAPED" in planted.stdout, planted
    for _ in range(4):
        outcome = sandbox.run(Program("python", source), limits)
        assert outcome.ok, outcome
        assert outcome.stdout == "looked through it\n", outcome.stdout
