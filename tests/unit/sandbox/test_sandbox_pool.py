"""Workers: replaced when they die, renewed when they are old."""

import os
import signal
import threading
import time
from pathlib import Path

from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.program import Program
from nemo_cascade.sandbox.sandbox import Sandbox
from tests.support.sandbox_workers import worker_ids
from tests.support.side_by_side import run_all


def python(source, **more):
    return Program("python", source, **more)


def alive(pid):
    """Tell whether a process runs; one that is dead and not yet waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def family(root):
    """Return the process ids of a process and all its descendants."""
    found = [root]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == root:
                found += family(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def all_dead(pids, deadline_s=5.0):
    deadline = time.monotonic() + deadline_s
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_a_killed_worker_is_replaced_and_its_run_repeated():
    with Sandbox(SandboxConfig()) as sandbox:
        (first,) = worker_ids(sandbox)
        everyone = family(first)
        assert len(everyone) >= 3, "bubblewrap, the zygote and its spares"
        results = []
        thread = threading.Thread(
            target=lambda: results.append(sandbox.run(python("import time; time.sleep(0.6); print(1)")))
        )
        thread.start()
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        thread.join()
        assert results[0].stdout == "1\n"
        assert all_dead(everyone)
        assert worker_ids(sandbox) != [first]
        os.kill(worker_ids(sandbox)[0], signal.SIGKILL)
        assert sandbox.run(python("print(2)")).stdout == "2\n"


def test_a_run_that_loses_two_workers_is_an_error_of_the_sandbox_and_no_verdict():
    with Sandbox(SandboxConfig()) as sandbox:
        errors = []

        def run():
            try:
                sandbox.run(python("import time; time.sleep(30)"), Limits(wall_s=60.0))
            except SandboxError as error:
                errors.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        for _ in range(2):
            time.sleep(0.5)
            (worker,) = worker_ids(sandbox)
            os.kill(worker, signal.SIGKILL)
            while thread.is_alive() and worker_ids(sandbox) in ([], [worker]):
                time.sleep(0.01)
        thread.join(20)
        assert errors
        assert "broke two sandbox workers" in errors[0]
        assert sandbox.run(python("print(3)")).stdout == "3\n"


def test_old_workers_are_renewed_without_a_pause(monkeypatch):
    monkeypatch.setattr("nemo_cascade.sandbox.pool._RECYCLE_AFTER", 20)
    with Sandbox(SandboxConfig(), workers=2) as sandbox:
        before = set(worker_ids(sandbox))
        deadline = time.monotonic() + 20
        while before & set(worker_ids(sandbox)) and time.monotonic() < deadline:
            outcomes = run_all(sandbox, [python(f"print({i})") for i in range(40)])
            assert [outcome.stdout for outcome in outcomes] == [f"{i}\n" for i in range(40)]
        assert not before & set(worker_ids(sandbox))
        assert not [pid for pid in before if alive(pid)]


def test_closing_ends_every_process_of_the_sandbox():
    sandbox = Sandbox(SandboxConfig(), workers=2)
    errors = []

    def run():
        try:
            sandbox.run(python("import time; time.sleep(60)"), Limits(wall_s=90.0))
        except SandboxError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    pids = [pid for worker in worker_ids(sandbox) for pid in family(worker)]
    assert len(pids) >= 6
    sandbox.close()
    thread.join(10)
    assert len(errors) == 1
    assert all_dead(pids)


def test_workers_die_with_the_process_that_started_them(tmp_path):
    pid_file = tmp_path / "pids"
    child = os.fork()
    if child == 0:
        sandbox = Sandbox(SandboxConfig())
        pid_file.write_text(" ".join(map(str, family(worker_ids(sandbox)[0]))))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pids = [int(pid) for pid in pid_file.read_text().split()]
    assert len(pids) >= 3
    assert all_dead(pids)
