"""What the page of run folders is told: everything of a run, live, of a million rollouts a page at a time."""

import gzip
import json
import os
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.ledger import Ledger
from nemo_cascade.errors import RunFolderError
from nemo_cascade.telemetry.metrics import MetricsLog
from nemo_cascade.view.server import serving


@contextmanager
def opened(*folders):
    """Serve run folders; yields a function (path) -> answer."""
    with serving(folders, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(path, **headers):
            request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read().decode()
                return json.loads(body) if answer.headers.get_content_type() == "application/json" else body

        try:
            yield ask
        finally:
            server.shutdown()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_everything_of_a_run_is_told_and_the_page_comes_with_it(run_folder):
    with opened(run_folder.path) as ask:
        assert '<script type="module" src="app.js">' in ask("/")
        told = ask("/api/0/overview")
        assert (told["state"], told["domains"]) == ("held", ["math", "instruction", "code"])
        assert [row["gate"] for row in told["matrix"]] == [None, "promote", "hold"]
        assert told["matrix"][2]["cells"]["code"]["tone"] == "broken"
        assert any("code" in finding and "a broken promise" in finding for finding in told["findings"])
        assert any("decide" in command for _, command in told["ways"])
        titles = [chart["title"] for chart in ask("/api/0/curves?stage=math_rl")["charts"]]
        assert {"Reward", "Entropy", "Gradient norm"} <= set(titles)
        rows = ask("/api/0/timeline?stage=math_rl&first=3&count=2")["rows"]
        assert [row["step"] for row in rows] == [3, 4]
        assert rows[0]["seconds"]["generate"] > 0
        assert ask("/api/0/ledger")["rows"][-1]["event"] == "run_started"


def test_rollouts_are_filtered_sorted_paged_and_read_whole(run_folder):
    with opened(run_folder.path) as ask:
        found = until(lambda: (page := ask("/api/0/rollouts?stage=math_rl&sort=best"))["waiting"] == 0 and page)
        assert {row["step"] for row in found["rows"]} == {1, 40}
        rewards = [row["reward"] for row in found["rows"] if row["reward"] is not None]
        assert rewards == sorted(rewards, reverse=True)
        failed = ask("/api/0/rollouts?stage=math_rl&error=any")
        assert failed["rows"]
        assert all(row["error"] for row in failed["rows"])
        cut = ask("/api/0/rollouts?stage=math_rl&finish=length&step=40")["rows"]
        assert {(row["finish_reason"], row["step"]) for row in cut} == {("length", 40)}
        whole = ask(f"/api/0/rollout?stage=math_rl&step=40&row={cut[0]['row']}")
        assert whole["prompt_id"] == cut[0]["prompt_id"]
        first, second = (ask(f"/api/0/rollouts?stage=math_rl&limit=1&offset={n}")["rows"][0] for n in (0, 1))
        assert first != second
        prompts = ask("/api/0/prompts?stage=math_rl")
        assert all(step in (1, 40) for row in prompts["rows"] for step, _, _ in row["points"])


def test_a_run_that_goes_on_is_seen_going_on(run_folder):
    with opened(run_folder.path) as ask:
        before, waiting = ask("/api/0/state")["state"], run_folder.stage(3, "code_rl")
        MetricsLog(waiting / "metrics.jsonl").log(8, {"loss": 1.0, "reward_mean": 0.5})
        assert ask("/api/0/state")["state"] != before
        assert ask("/api/0/curves?stage=code_rl")["steps"] == 8


def test_a_damaged_part_is_told_and_the_rest_is_shown(run_folder):
    (run_folder.stage(2, "math_rl") / "gate.json").write_text("{")
    with opened(run_folder.path) as ask:
        told = ask("/api/0/overview")
        assert any("gate" in notice for notice in told["notices"])
        assert [stage["name"] for stage in told["stages"]][1] == "sft1"


def test_requests_from_other_sites_and_for_other_files_are_refused(run_folder):
    with opened(run_folder.path) as ask:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask("/api/runs", Host="evil.example:80")
        for path in ("/../../etc/passwd", "/api/7/overview", "/api/0/secrets", "/app.py"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                ask(path)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask("/api/0/rollouts?stage=math_rl&step=nine")
    with pytest.raises(RunFolderError, match="no run folder"), opened(run_folder.path / "stages"):
        pass


def test_a_run_opens_before_its_rollouts_are_taken_in(run_folder, tmp_path):
    """The files are one file under many names; how soon a million of them open is what the bench tells."""
    kept, steps, big = 64, 4000, RunFolder(tmp_path / "big")
    line = {"prompt": "p", "response": "r " * 20, "reward": 0.5, "domain": "math", "finish_reason": "stop"}
    one = tmp_path / "one.gz"
    one.write_bytes(
        gzip.compress("".join(json.dumps(line | {"prompt_id": f"m/{i}"}) + "\n" for i in range(kept)).encode())
    )
    rollouts = big.stage(1, "math_rl") / "rollouts"
    rollouts.mkdir(parents=True)
    big.config.write_bytes(run_folder.config.read_bytes())
    Ledger(big.ledger).append("run_started")
    for step in range(1, steps + 1):
        os.link(one, rollouts / f"step_{step:06d}.jsonl.gz")
    with opened(big.path) as ask:
        assert len(ask("/api/0/overview")["stages"][0]["rollout_steps"]) == steps
        page = ask("/api/0/rollouts?stage=math_rl&step=7")
        assert page["total"] == kept
        assert page["waiting"] > 0
