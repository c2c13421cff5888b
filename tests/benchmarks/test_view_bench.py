"""The page of a run with a million rollouts: how soon it opens, is taken in, and shows each page."""

import gzip
import json
import os
import random
import threading
import time
import urllib.request

import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.ledger import Ledger
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.view.server import serving

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

ROLLOUTS, A_STEP, KINDS = 1_000_000, 256, 40
OPENED_S, ANSWERED_S, FILLED_S = 3.0, 1.0, 900.0
PAGES = {
    "newest": "rollouts?stage=math_rl",
    "one step": "rollouts?stage=math_rl&step=77",
    "best": "rollouts?stage=math_rl&sort=best",
    "worst, far behind": "rollouts?stage=math_rl&sort=worst&offset=900000",
    "longest, far behind": "rollouts?stage=math_rl&sort=longest&offset=500000",
    "by reward": "rollouts?stage=math_rl&least=0.4&most=0.5&sort=shortest",
    "errors": "rollouts?stage=math_rl&error=any",
    "one prompt": "rollouts?stage=math_rl&prompt=m/17/3",
    "prompts": "prompts?stage=math_rl&limit=50",
}


def write_run(path):
    """Write a run of a million rollouts; its files are a few under many names."""
    run, drawn = RunFolder(path), random.Random(0)
    run.path.mkdir(parents=True)
    run.write_record(*compose(["cascade=nano"]))
    Ledger(run.ledger).append("run_started")
    rollouts = run.stage(1, "math_rl") / "rollouts"
    rollouts.mkdir(parents=True)
    kinds = []
    for kind in range(KINDS):
        lines = [
            {
                "prompt_id": f"m/{kind}/{row // 8}",
                "domain": "math",
                "prompt": "p",
                "response": "r " * drawn.randrange(5, 200),
                "reward": None if row == 9 else round(drawn.random(), 3),
                "error": "timeout" if row == 9 else None,
                "finish_reason": "stop",
            }
            for row in range(A_STEP)
        ]
        kinds.append(path / f"kind_{kind}.gz")
        kinds[-1].write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    for step in range(1, -(-ROLLOUTS // A_STEP) + 1):
        os.link(kinds[step % KINDS], rollouts / f"step_{step:06d}.jsonl.gz")
    return run


def test_a_million_rollouts_open_fill_and_are_paged(tmp_path, capsys):
    run, rows = write_run(tmp_path / "big"), []
    begun = time.perf_counter()
    with serving([run.path], 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def asked(page):
            start = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/api/0/{page}", timeout=120) as answer:
                told = json.load(answer)
            return told, time.perf_counter() - start

        asked("overview")
        assert asked("rollouts?stage=math_rl")[0]["rows"]
        opened_s = time.perf_counter() - begun
        slowest_s = 0.0
        while (told := asked("rollouts?stage=math_rl&step=9"))[0]["waiting"]:
            slowest_s = max(slowest_s, told[1])
            assert time.perf_counter() - begun < FILLED_S
            time.sleep(1)
        filled_s = time.perf_counter() - begun
        for name, page in PAGES.items():
            told, seconds = min((asked(page) for _ in range(2)), key=lambda answer: answer[1])
            rows.append((name, told["total"], seconds))
        server.shutdown()
    with capsys.disabled():
        print(f"\na run of {ROLLOUTS:,} rollouts, {A_STEP} a step")
        print(
            f"  opened in {opened_s:.2f} s; taken in after {filled_s:.0f} s; slowest answer meanwhile {slowest_s:.2f} s"
        )
        for name, total, seconds in rows:
            print(f"  {name:22s} {total:9,d} found {seconds * 1000:7.0f} ms")
    assert opened_s < OPENED_S
    assert max(seconds for _, _, seconds in rows) < ANSWERED_S
