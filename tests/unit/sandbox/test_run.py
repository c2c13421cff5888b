# ruff: noqa: E501
"""Runs and their outcomes."""

import subprocess
import sys

import pytest

from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.program import Program, Status
from nemo_cascade.sandbox.sandbox import Sandbox
from tests.support.sandbox_workers import worker_ids
from tests.support.side_by_side import run_all


def python(source, **more):
    return Program("python", source, **more)


def test_input_arguments_files_and_output_go_through(sandbox):
    source = "import sys, data.helper\nprint(sys.argv[1:], input(), data.helper.X, open('data/raw').read())\nsys.stderr.write('note')"
    files = {"data/helper.py": b"X = 7", "data/raw": b"raw"}
    outcome = sandbox.run(python(source, stdin="zażółć\n", files=files, args=("a", "b c")))
    assert (outcome.status, outcome.exit_code, outcome.stderr) == (Status.OK, 0, "note")
    assert outcome.stdout == "['a', 'b c'] zażółć 7 raw\n"
    assert 0 < outcome.seconds < 5


def test_a_program_is_its_own_main_with_threads_exit_handlers_and_traceback(sandbox):
    source = """
import atexit, threading, time
def late():
    time.sleep(0.05)
    print("thread")
atexit.register(print, "handler")
threading.Thread(target=late).start()
if __name__ == "__main__":
    print("main")
"""
    assert sandbox.run(python(source)).stdout == "main\nthread\nhandler\n"
    failed = sandbox.run(python("def f():\n    return 1 / 0\nf()"))
    assert (failed.status, failed.exit_code) == (Status.ERROR, 1)
    assert failed.stderr.startswith("Traceback")
    assert 'File "main.py", line 2, in f' in failed.stderr
    assert "ZeroDivisionError" in failed.stderr
    assert "/opt/sandbox" not in failed.stderr


@pytest.mark.parametrize(
    ("source", "exit_code", "stderr"),
    [("import sys; sys.exit(3)", 3, ""), ("raise SystemExit('why')", 1, "why\n"), ("import os; os._exit(9)", 9, "")],
)
def test_exit_statuses_are_those_of_the_interpreter(sandbox, source, exit_code, stderr):
    outcome = sandbox.run(python(source))
    assert (outcome.status, outcome.exit_code, outcome.stderr) == (Status.ERROR, exit_code, stderr)
    plain = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stderr) == (exit_code, stderr)


THREADS = """
import threading
go = threading.Event()
for _ in range({}):
    threading.Thread(target=go.wait, daemon=True).start()
go.set()
"""


@pytest.mark.parametrize(
    ("source", "limits", "status"),
    [
        ("while True: pass", {"wall_s": 0.5}, Status.TIMEOUT),
        ("while True: pass", {"cpu_s": 0.5, "wall_s": 20.0}, Status.TIMEOUT),
        ("x = bytearray(200 << 20)", {"memory_mib": 128}, Status.MEMORY),
        ("print('x' * 1025)", {"output_kib": 1}, Status.OUTPUT),
        ("print('x' * 1023)", {"output_kib": 1}, Status.OK),
        ("open('f', 'wb').write(bytes(3 << 20))", {"files_mib": 2}, Status.ERROR),
        (THREADS.format(4), {"processes": 5}, Status.OK),
        (THREADS.format(5), {"processes": 5}, Status.ERROR),
    ],
)  # fmt: skip
def test_each_limit_has_its_status_and_is_exact(sandbox, source, limits, status):
    outcome = sandbox.run(python(source), Limits(**{"wall_s": 10.0, **limits}))
    assert outcome.status is status, outcome
    if status is Status.OUTPUT:
        assert outcome.stdout == "x" * 1024


IN_A_THREAD = """
import threading, time
def work():
    while time.thread_time() < 1.0: pass
    print("done")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
# A parent in clone(CLONE_VFORK) is in the state of one that waits for a disk.
ASLEEP = """
import ctypes, time
if ctypes.CDLL(None).syscall(56, 0x4000 | 17, 0, 0, 0, 0) == 0:
    time.sleep(10 ** 6)
"""


def test_a_thread_that_computes_is_no_waiting_and_a_child_that_sleeps_is(sandbox):
    patient = {"cpu_s": 10.0, "wall_s": 60.0}
    outcome = sandbox.run(Program("python", IN_A_THREAD), Limits(waiting_s=0.5, **patient))
    assert (outcome.status, outcome.stdout) == (Status.OK, "done\n"), outcome
    for source in (ASLEEP, IN_A_THREAD.replace("while time.thread_time() < 1.0: pass", "time.sleep(10 ** 6)")):
        outcome = sandbox.run(Program("python", source), Limits(waiting_s=0.5, **patient))
        assert outcome.status is Status.TIMEOUT, outcome
        assert "waiting" in outcome.detail
        assert outcome.seconds < 30


def test_runs_on_all_workers_keep_their_order(sandbox):
    programs = [python(f"print({i})") for i in range(40)]
    assert [outcome.stdout for outcome in run_all(sandbox, programs)] == [f"{i}\n" for i in range(40)]


def test_randomness_is_the_same_in_every_run(sandbox):
    source = "import random; print(random.random(), hash('a'), {'a', 'b', 'c', 'd'})"
    assert len({sandbox.run(python(source)).stdout for _ in range(4)}) == 1


def test_large_input_and_source_arrive_whole(sandbox):
    source = "import sys\nprint(len(sys.stdin.read()), len(TEXT))\n".replace("TEXT", repr("x" * 3_000_000))
    assert sandbox.run(python(source, stdin="y" * 5_000_000)).stdout == "5000000 3000000\n"


def test_cpp_compiles_once_and_runs_per_input(sandbox):
    source = '#include <iostream>\n#include "add.h"\nint main(int n, char** v) { int a, b; std::cin >> a >> b; std::cout << add(a, b) << v[1]; }'
    files = {"add.h": b"inline int add(int a, int b) { return a + b; }"}
    first = sandbox.run(Program("cpp", source, stdin="1 2", files=files, args=("!",)))
    assert (first.status, first.stdout) == (Status.OK, "3!"), first
    second = sandbox.run(Program("cpp", source, stdin="3 4", files=files, args=("?",)))
    assert second.stdout == "7?"
    broken = sandbox.run(Program("cpp", "int main() { return x; }"))
    assert broken.status is Status.COMPILE_ERROR
    assert "x" in broken.stderr
    crashed = sandbox.run(Program("cpp", "int main() { return *(volatile int*)0; }"))
    assert (crashed.status, crashed.detail) == (Status.ERROR, "ended by SIGSEGV")


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", "a//b", "./a"])
def test_files_outside_the_folder_are_refused(path):
    with pytest.raises(SandboxError, match="outside its folder"):
        python("1", files={path: b""})


@pytest.mark.parametrize("files", [{"x" * 300: b""}, {"a": b"", "a/b": b""}, {"big": bytes(5 << 20)}])
def test_files_that_can_not_be_written_are_refused_and_no_worker_suffers(sandbox, files):
    before = worker_ids(sandbox)
    with pytest.raises(SandboxError, match="can't be written"):
        sandbox.run(python("1", files=files), Limits(files_mib=4))
    assert worker_ids(sandbox) == before


def test_programs_may_start_processes_of_their_own(sandbox):
    source = """
import multiprocessing, subprocess, sys
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, -2]), flush=True)
    print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout)
"""
    outcome = sandbox.run(python(source))
    assert outcome.stdout == "[1, 2]\n42\n\n", outcome


def test_children_that_wait_do_not_count_against_the_processes_of_a_run():
    """Those kept for a size of /tmp that is no longer asked for wait on, while users take turns many times."""
    source = "import os\nif os.fork() == 0: os._exit(0)\nos.wait()\nprint('both')"
    with Sandbox(SandboxConfig()) as made:
        made.run(python("print(1)"), Limits(files_mib=9))
        for _ in range(40):
            outcome = made.run(python(source), Limits(files_mib=5, processes=2))
            assert outcome.stdout == "both\n", outcome


def test_a_short_run_copies_few_pages(sandbox):
    source = "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    faults = [int(outcome.stdout) for outcome in run_all(sandbox, [python(source)] * 20)]
    # About 280; 377 before forks were prepared for.
    assert min(faults) < 320


def test_output_beyond_a_pipe_goes_through_whole(sandbox):
    outcome = sandbox.run(python("print('x' * 300_000)"), Limits(output_kib=512))
    assert (outcome.status, len(outcome.stdout)) == (Status.OK, 300_001)
    assert outcome.seconds < 5


def test_unknown_languages_are_refused():
    with pytest.raises(SandboxError, match="unknown language"):
        Program("perl", "1")
