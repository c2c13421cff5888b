"""However the driver ends, nothing of the run is left: no process, no folder."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.processes import janitor
from tests.support.tiny_policy import write_tiny_folder

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0  # a loaded machine takes long; a quiet one about two seconds


# how the driver's program goes on, the signal it gets, its exit status (None: any but 0)
EXITS = {
    "end": ("normal", None, 0),
    "exception": ("exception", None, 1),
    "SIGTERM": ("signal", signal.SIGTERM, None),
    "SIGINT": ("signal", signal.SIGINT, None),
    "SIGKILL": ("signal", signal.SIGKILL, -signal.SIGKILL),
}


class Driven:
    """A driver process; once it is READY, all processes below it."""

    def __init__(self, how, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.actors_driver", how, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # Whoever runs the tests in a shell's background has SIGINT ignored, and so would we.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.below = []

    def wait_until_ready(self):
        word = self.process.stdout.readline().split()
        assert word[:1] == ["READY"], self.process.communicate()[1][-2000:]
        (self.session,) = word[1:]

    def look(self):
        self.below = psutil.Process(self.process.pid).children(recursive=True)
        return [" ".join(p.cmdline()) or p.name() for p in self.below]

    def left(self):
        alive = [p for p in self.below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        folder = [self.session] if Path(self.session).exists() else []
        return [*(f"{p.pid} {p.name()}" for p in alive), *janitor.session_processes(self.session), *folder]

    def assert_nothing_left(self, within_s):
        end = time.monotonic() + within_s
        while (left := self.left()) and time.monotonic() < end:
            time.sleep(0.1)
        assert left == []


@pytest.fixture
def driven():
    """Start drivers; none outlives the test."""
    started = []

    def start(*arguments):
        started.append(Driven(*arguments))
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize(
    "name", [name if name in ("SIGTERM", "SIGKILL") else pytest.param(name, marks=pytest.mark.long) for name in EXITS]
)
def test_nothing_is_left_behind(driven, name):
    how, number, code = EXITS[name]
    driven = driven(how)
    if number is not None:
        names = driven.look()
        assert sum("time.sleep(600)" in n for n in names) == 2
        assert any("raylet" in n for n in names)
        driven.process.send_signal(number)
    status = driven.process.wait(DEADLINE_S)
    assert status == code if code is not None else status != 0
    driven.assert_nothing_left(DEADLINE_S if number == signal.SIGKILL else 0.5)


# In every suite, `tests/e2e/test_cascade_resume.py` kills a driver in a generation and waits for its family.
@pytest.mark.long
def test_nothing_is_left_of_real_roles_when_the_driver_is_killed_in_a_generation(driven, tmp_path):
    folder = write_tiny_folder(tmp_path / "model", vocab_size=512, head_dim=32)
    train_nano_tokenizer(["1 + 2 = 3", "user assistant"] * 8, Path(folder))
    driven = driven("signal", folder)
    names = driven.look()
    assert any("fork_server" in n for n in names)  # the verifiers' parent
    assert sum("RolloutActor" in n or "PolicyActor" in n or "RewardActor" in n for n in names) == 3
    driven.process.kill()
    driven.process.communicate()
    driven.assert_nothing_left(DEADLINE_S)
