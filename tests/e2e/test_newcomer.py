"""A newcomer: a fresh clone, twenty rows, a reward of ten lines; SFT and GRPO on them without an edit of the package.

`make setup`, which everybody does first, is taken from here; the commands are counted with it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
WORDS = ("red", "blue", "green", "black", "white", "pink", "grey", "brown")
REWARD = '''
def score(record, response):
    """How many of the wanted words the answer has."""
    said = response.text.split()
    return sum(word in said for word in record["words"]) / len(record["words"])
'''
MOST_COMMANDS, MOST_S = 6, 600  # on two quiet cores


class Newcomer:
    """Somebody in an empty folder, whose commands are counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone, self.commands = folder, folder / "nemo_cascade", 2  # make setup; activate
        self.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(self.clone)])
        rows = [(WORDS[i % 8], WORDS[(i + 1 + i // 8) % 8]) for i in range(20)]
        lines = [{"prompt": f"Say {a} and then {b}.", "completion": f"{a} {b}", "words": [a, b]} for a, b in rows]
        (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "my_reward.py").write_text(REWARD)

    def run(self, line: list[str]) -> str:
        self.commands += 1
        env = {**os.environ, "PYTHONPATH": str(self.clone)}
        done = subprocess.run(line, cwd=self.folder, env=env, capture_output=True, text=True, timeout=MOST_S)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def cascade(self, *words: str) -> str:
        return self.run([sys.executable, "-m", "nemo_cascade", *words])


@pytest.mark.long
@pytest.mark.parametrize("model", ["nano", "smol"])
def test_own_rows_and_an_own_reward_give_an_sft_and_a_grpo_result(tmp_path, model):
    begun, newcomer = time.monotonic(), Newcomer(tmp_path)
    told = newcomer.cascade("init", "mine", "--model", model, "--data", "rows.jsonl", "--reward", "my_reward.py:score")
    assert "16 rows to train on, 4 held out" in told
    assert told.count("⟧") >= 3
    newcomer.cascade("run", "cascade=mine", "--config-dir", "mine/conf", "logging.progress=false")
    assert newcomer.commands <= MOST_COMMANDS
    run = tmp_path / "runs" / "mine"
    scores = json.loads((run / "scores.json").read_text())
    assert list(scores) == ["start", "sft", "rl"]
    assert all(0 <= scores[stage]["own"]["score"] <= 1 for stage in scores)
    # The rows say what is rewarded, so imitating them pays.
    assert scores["sft"]["own"]["score"] > scores["start"]["own"]["score"]
    lines = (run / "stages" / "02-rl" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["verdict_errors"] == 0 for line in lines)
    assert (run / "report.html").is_file()
    assert (
        subprocess.run(["git", "-C", str(newcomer.clone), "status", "--porcelain"], capture_output=True).stdout == b""
    )
    assert time.monotonic() - begun < MOST_S
