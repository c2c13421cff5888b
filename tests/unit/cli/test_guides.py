"""Every command that README and the guides print works as it is printed; what would take hours is run with --dry."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_cascade.cli import main as command
from tests.support.decided_run import decided_run

ROOT = Path(__file__).parents[3]
GUIDES = ("README.md", "conf/README.md", "slurm/README.md", "containers/README.md")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# They would start a whole run, ask a cluster, or train: --dry does everything up to that.
DRY = ("run", "fork", "submit", "experiment", "evaluate")
# They measure this machine for minutes, need a run that did, or write the shipped factors anew.
MEASURED = {"machine", "--against", "--calibrate", "--fit"}
SINK = """
class Lines:
    def __init__(self, run): pass
    def log(self, stage, step, values): pass
    def close(self): pass
"""


def blocks(guide, language=""):
    text = (ROOT / guide).read_text()
    return [body for kind, body in _FENCE.findall(text) if kind == language]


def lines(guide):
    """Return the commands of a guide's blocks, each in one line, without the remark behind it."""
    found = [line for body in blocks(guide) for line in body.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+#\s.*", "", line).strip() for line in found if re.match(r"[a-z]", line)]


def commands(guide):
    return [line for line in lines(guide) if line.startswith("nemo-cascade ")]


@pytest.fixture
def place(tmp_path, data_dir, monkeypatch):
    """Return a folder with all that the guides name, nano's data among it."""
    monkeypatch.chdir(tmp_path)
    decided_run(tmp_path / "runs")
    (tmp_path / "runs" / "data").symlink_to(data_dir)
    (tmp_path / "tests/benchmarks").mkdir(parents=True)
    shutil.copy(ROOT / "tests/benchmarks/published.jsonl", tmp_path / "tests/benchmarks")
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"prompt": "Say w{i}.", "completion": "w{i}", "words": ["w{i}"]}}\n' for i in range(20))
    )
    (tmp_path / "my_reward.py").write_text(next(b for b in blocks("conf/README.md", "python") if "def score" in b))
    (tmp_path / "my_sink.py").write_text(SINK)
    shutil.copy(ROOT / "tests/support/own_environment.py", tmp_path / "my_env.py")
    shutil.copy(ROOT / "tests/support/phi3_family.py", tmp_path / "my_family.py")
    return tmp_path


def looked_at(words):
    """Open the page of a run, and end it as a user does."""
    view = subprocess.Popen(
        [sys.executable, "-m", "nemo_cascade", *words],
        stdout=subprocess.PIPE,
        text=True,
        # Else it would ignore Ctrl-C where the suite itself runs in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert "http://127.0.0.1:" in view.stdout.readline()
        view.send_signal(signal.SIGINT)
        assert view.wait(60) == 0
    finally:
        view.kill()
        view.wait()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_of_a_guide_works_as_it_is_printed(guide, place, capsys):
    for line in commands(guide):
        words = shlex.split(line)[1:]
        if MEASURED & set(words):
            continue
        if words[0] == "view":
            # A run that the guide starts isn't there: it was started with --dry.
            looked_at(words) if Path(words[1]).is_dir() else None
            continue
        if words[0] == "report" and "runs/hot" in words:
            shutil.copytree("runs/nano", "runs/hot")  # another run that the guide only planned
        asks = words[0] == "submit" and words[1].startswith("--")
        dry = ["--dry"] if words[0] in DRY and "--dry" not in words and not asks else []
        code = command.main([*words, *dry])
        told = capsys.readouterr()
        # No job was submitted, so there is none to ask for; `doctor` and `fetch --dry` tell what is missing.
        expected = (0, command.REFUSED) if asks or words[0] in ("doctor", "fetch") else (0,)
        assert code in expected, f"{line}\n{told.out}\n{told.err}"
        assert "Traceback" not in told.err, line


@pytest.mark.parametrize("guide", GUIDES)
def test_targets_and_files_that_a_guide_names_are_there(guide):
    for line in lines(guide):
        words = line.split()
        if words[0] == "make":
            assert subprocess.run(["make", "-n", *words[1:2]], cwd=ROOT, capture_output=True).returncode == 0, line
        elif words[0] == "pytest":
            assert all((ROOT / word).exists() for word in words[1:] if word.startswith("tests/")), line


def test_the_library_s_example_runs(place):
    (example,) = [body for body in blocks("README.md", "python") if "nemo_cascade as nc" in body]
    shown = {}
    exec(example, shown)
    assert shown["run"].stages[-1] == "math_rl"
