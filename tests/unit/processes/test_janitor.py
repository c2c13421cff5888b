import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nemo_cascade.processes import janitor
from nemo_cascade.processes.supervise import Driver

SLEEPER = "import time; time.sleep(60)"


def run(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", code, *map(str, arguments)], **options)


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def session(tmp_path):
    folder = tmp_path / "session"
    folder.mkdir()
    return folder


def test_a_session_owns_who_was_born_in_it_or_writes_in_it_and_not_who_reads(session):
    log = session / "log"
    log.write_text("x")
    with open(log, "a") as written, open(log) as read:
        born = run(SLEEPER, env={janitor.MARKER: str(session)}, stdout=subprocess.DEVNULL)
        writer = run(SLEEPER, stdout=written)
        reader = run(SLEEPER, stdin=read, stdout=subprocess.DEVNULL)
        other = run(SLEEPER, env={janitor.MARKER: f"{session}-2"}, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: set(janitor.session_processes(str(session))) == {born.pid, writer.pid})
        assert janitor.sweep(str(session), grace_s=0.2) == []
        wait_until(lambda: born.poll() == writer.poll() == -signal.SIGKILL)
        assert reader.poll() is other.poll() is None
    finally:
        for process in (born, writer, reader, other):
            process.kill()
            process.wait()


def test_a_sweep_lets_processes_end_by_themselves_first(session):
    child = run("import time; time.sleep(0.6)", env={janitor.MARKER: str(session)})
    assert janitor.sweep(str(session), grace_s=5.0) == []
    assert child.wait() == 0


def test_the_janitor_outlives_a_killed_driver_and_cleans_up(session):
    # The driver starts its janitor and a grandchild that ignores everything but SIGKILL, then hangs.
    code = (
        "import os, subprocess, sys, time\n"
        "guard, session, marker = sys.argv[1:]\n"
        "ticks = open('/proc/self/stat').read().rpartition(') ')[2].split()[19]\n"
        "subprocess.Popen([sys.executable, '-I', '-S', guard, str(os.getpid()), ticks, session],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "stubborn = 'import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-I', '-S', '-c', stubborn], env={marker: session},"
        " start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    driver = run(code, janitor.__file__, session, janitor.MARKER, stdout=subprocess.PIPE, text=True)
    child = int(driver.stdout.readline())
    below = [p.pid for p in psutil.Process(driver.pid).children(recursive=True)]
    assert child in below
    assert len(below) == 2
    driver.kill()
    driver.wait()
    # Seconds on a quiet machine; a busy one is given its time.
    wait_until(lambda: not any(alive(p) for p in below), janitor.GRACE_S + 50)
    assert not session.exists()


def test_a_reused_pid_is_not_the_same_process():
    mine = janitor.start_ticks(os.getpid())
    child = run(SLEEPER)
    assert janitor.start_ticks(child.pid) >= mine
    child.kill()
    wait_until(lambda: janitor.start_ticks(child.pid) is None)  # a zombie is dead
    child.wait()
    driver = Driver.here()
    assert driver.is_alive
    assert not Driver(driver.pid, driver.ticks - 1, driver.machine).is_alive
    assert Driver(driver.pid, driver.ticks - 1, "another machine").is_alive


def test_descendants_are_found_through_all_generations():
    child = run("import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])", SLEEPER)
    try:
        wait_until(lambda: len(janitor.descendants(child.pid)) == 1)
        assert {child.pid, *janitor.descendants(child.pid)} <= set(janitor.descendants(os.getpid()))
    finally:
        janitor.kill([*janitor.descendants(child.pid), child.pid])
        child.wait()
