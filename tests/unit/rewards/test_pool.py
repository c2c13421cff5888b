import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.errors import ConfigError, RewardError
from nemo_cascade.rewards.pool import scheduler
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.pool.processes import ForkServer
from nemo_cascade.rewards.response import Response
from tests.unit.rewards.pool_load import fork_servers

HERE = Path(__file__).parent
PROBE = {
    "probe": "probe_verifiers:Probe",
    "wrong": "probe_verifiers:WrongGolden",
    "threaded": "probe_verifiers:Threaded",
    "broken": "probe_verifiers:Broken",
}


@pytest.fixture(autouse=True)
def _probe_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def make_pool(**settings):
    return VerifierPool(RewardConfig(**{"workers": 2, "deadline_s": 5.0, **settings}), PROBE)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened for 30 s"
        time.sleep(0.01)
    return value


def ask(pool, record, text="", key="k"):
    pool.submit(key, "probe", record, Response(text))
    [(got, verdict)] = pool.drain()
    assert got == key
    return verdict


def test_every_sample_gets_exactly_one_verdict_amid_hangs_crashes_and_errors(tmp_path):
    rows = []
    for index in range(300):
        if index % 50 == 7:
            rows.append(({"do": "hang"}, "timeout"))
        elif index % 50 == 13:
            rows.append(({"do": "die"}, "crash"))
        elif index % 50 == 19:
            rows.append(({"do": "die_once", "mark": str(tmp_path / str(index)), "score": 0.5}, 0.5))
        elif index % 50 == 23:
            rows.append(({"do": "raise"}, "exception"))
        else:
            rows.append(({"score": index / 7}, index / 7))
    with make_pool(deadline_s=2.0) as pool:
        results = []
        for index, (record, _) in enumerate(rows):
            pool.submit(index, "probe", record, Response(""))
            results += pool.collect(0.0)
        results += pool.drain()
        assert pool.collect(1.0) == []
    assert sorted(key for key, _ in results) == list(range(300))
    assert all((verdict.error or verdict.score) == rows[key][1] for key, verdict in results)


def test_hung_verifier_is_killed_at_its_deadline_and_the_log_says_whose(caplog):
    with make_pool(deadline_s=0.5) as pool:
        ask(pool, {"score": 1.0})
        start = time.monotonic()
        verdict = ask(pool, {"do": "hang"}, key=("math/17", 3))
        assert 0.5 <= time.monotonic() - start < 5
        assert verdict.error == "timeout"
        assert "no verdict within 0.5 s by probe for ('math/17', 3)" in caplog.text


def test_errors_carry_their_kind_and_never_a_score():
    with make_pool(memory_mib=2048) as pool:
        refused, raised = ask(pool, {"do": "refuse"}), ask(pool, {"do": "raise"})
        assert (refused.score, refused.error, refused.detail) == (None, "record", "probe refuses")
        assert (raised.score, raised.error) == (None, "exception")
        assert "ZeroDivisionError: probe (at probe_verifiers.py:" in raised.detail
        assert ask(pool, {"do": "nan"}).error == "exception"
        assert ask(pool, {"do": "memory"}).error == "memory"
        assert ask(pool, {"score": 0.25}).score == 0.25


def test_worker_killed_from_outside_is_replaced_and_its_sample_retried(tmp_path, caplog):
    with make_pool(workers=1) as pool:
        mark = tmp_path / "started"
        pool.submit("a", "probe", {"do": "sleep", "seconds": 0.5, "mark": str(mark), "score": 1.0}, Response(""))
        wait_for(mark.exists)
        [worker] = fork_servers()[0].children()
        worker.send_signal(signal.SIGKILL)
        [(key, verdict)] = pool.drain()
        assert (key, verdict.score) == ("a", 1.0)
        assert f"worker {worker.pid} ended with status -9" in caplog.text


def test_no_more_processes_are_forked_than_there_are_workers_and_a_hang_holds_its_own():
    with make_pool(workers=2, deadline_s=2.0) as pool:
        ask(pool, {"score": 1.0})
        pool.submit("hang", "probe", {"do": "hang"}, Response(""))
        processes = set()
        for index in range(20):
            pool.submit(index, "probe", {"do": "process"}, Response(""))
        processes |= {verdict.score for key, verdict in pool.drain() if key != "hang"}
        assert len(fork_servers()[0].children()) <= 2
    assert len(processes) <= 2


def test_fork_server_killed_from_outside_is_replaced_without_losing_samples(tmp_path, caplog):
    with make_pool() as pool:
        ask(pool, {"score": 1.0})
        mark = tmp_path / "started"
        for index in range(8):
            record = {"do": "sleep", "seconds": 0.2, "mark": str(mark), "score": float(index)}
            pool.submit(index, "probe", record, Response(""))
        wait_for(mark.exists)
        fork_servers()[0].send_signal(signal.SIGKILL)
        assert sorted((key, verdict.score) for key, verdict in pool.drain()) == [(i, float(i)) for i in range(8)]
        assert caplog.text.count("the fork server ended with status -9") == 1


def test_too_many_crashes_fail_the_pool(monkeypatch):
    monkeypatch.setattr(scheduler, "_CRASH_BUDGET", 3)
    with make_pool() as pool:
        pool.submit(0, "probe", {"do": "die"}, Response(""))
        assert [verdict.error for _, verdict in pool.drain()] == ["crash"]
        pool.submit(1, "probe", {"do": "die"}, Response(""))
        with pytest.raises(RewardError, match=r"keep dying.*status -11.*allowed: 3"):
            pool.drain()
        with pytest.raises(RewardError, match="keep dying"):
            pool.submit("later", "probe", {}, Response(""))


def test_submit_waits_while_too_many_are_in_flight(monkeypatch):
    monkeypatch.setattr("nemo_cascade.rewards.pool.pool._MAX_PENDING", 2)
    with make_pool(workers=1) as pool:
        ask(pool, {"score": 1.0})
        start = time.monotonic()
        for index in range(4):
            pool.submit(index, "probe", {"do": "sleep", "seconds": 0.2}, Response(""))
        assert time.monotonic() - start >= 0.4
        assert len(pool.drain()) == 4


def test_self_test_lists_every_failing_case():
    with make_pool() as pool:
        pool.self_test(["probe"])
        with pytest.raises(RewardError) as caught:
            pool.self_test(["probe", "wrong"])
        assert "2 of 4 golden cases fail" in str(caught.value)
        assert "'first' must get score 1, got score 0" in str(caught.value)
        assert "'third' must get score 0, got error exception" in str(caught.value)
        assert pool.drain() == []


def test_unknown_unloadable_or_threaded_verifiers_are_refused():
    with make_pool() as pool:
        with pytest.raises(RewardError, match="did you mean 'probe'"):
            pool.submit(0, "prob", {}, Response(""))
        with pytest.raises(RewardError, match="ZeroDivisionError: no constructor"):
            pool.submit(0, "broken", {}, Response(""))
        with pytest.raises(RewardError, match="started 1 threads"):
            pool.submit(0, "threaded", {}, Response(""))
    with make_pool() as pool, pytest.raises(RewardError, match="nonsense"):
        pool.submit(0, "probe", {}, Response(""), {"nonsense": 1})


def test_settings_for_verifiers_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match=r"deadlines.*cod"):
        VerifierPool(RewardConfig(deadlines={"cod": 3.0}))


def test_one_verifier_judges_by_the_settings_that_each_sample_came_with():
    row, text = {"answer": "4"}, "<think>四</think>\\boxed{4}"
    with VerifierPool(RewardConfig(workers=1)) as pool:
        for key, settings in (("rl", {"mixed_language_score": -1.0}), ("suite", {})):
            pool.self_test(["math"], settings)
            pool.submit(key, "math", row, Response(text), settings)
        # The same settings in another order are no other verifier, and all are there behind a fork server's end.
        for process in fork_servers():
            process.kill()
        both = {"language": "en", "mixed_language_score": -0.5}
        pool.submit("more", "math", row, Response(text), both)
        pool.submit("again", "math", row, Response(text), dict(reversed(both.items())))
        pool.submit("rl2", "math", row, Response(text), {"mixed_language_score": -1.0})
        scores = {key: verdict.score for key, verdict in pool.drain()}
    assert scores == {"rl": -1.0, "suite": 1.0, "more": -0.5, "again": -0.5, "rl2": -1.0}


def test_golden_cases_are_tried_under_the_given_limits_but_not_under_what_asks_for_other_verdicts():
    with VerifierPool(RewardConfig(workers=1)) as pool:
        pool.self_test(["instruction"], {"partial": True})  # half-followed, which a golden case has at 0, scores 0.5
        pool.self_test(["language"], {"language": "ru"})
        with pytest.raises(RewardError, match="a verifier refuses its options"):
            pool.self_test(["instruction"], {"partail": True})


def test_huge_and_malformed_texts_pass_through_unchanged():
    with make_pool() as pool:
        for text in ("x" * (10 << 20), "\0" * 100, "lone \ud800 surrogate", "\u202edesrever"):
            assert ask(pool, {"do": "length"}, text=text).score == len(text)


def test_workers_hold_no_heavy_library_and_are_recycled_without_a_loss(caplog):
    with make_pool(workers=1) as pool:
        assert ask(pool, {"do": "modules"}).score == 0.0
        for index in range(4_100):
            pool.submit(index, "probe", {"do": "process"}, Response(""))
        processes = [verdict.score for _, verdict in pool.drain()]
    assert len(processes) == 4_100
    assert len(set(processes)) == 3
    assert caplog.text == ""


def test_timeout_kills_what_the_verifier_left_running_and_close_leaves_no_process(tmp_path):
    mark = tmp_path / "pid"
    with make_pool(deadline_s=1.0) as pool:
        assert ask(pool, {"do": "leave_child", "mark": str(mark)}).error == "timeout"
        # It was killed before the verdict came; a busy machine takes its time to carry that out.
        end = time.monotonic() + 10.0
        while alive := _alive_in_group(int(mark.read_text())):
            assert time.monotonic() < end, alive
            time.sleep(0.02)
        assert fork_servers()
    assert fork_servers() == []


def _alive_in_group(group):
    found = [p for p in psutil.process_iter(["pid", "status"]) if _group_of(p.pid) == group]
    return [p for p in found if p.info["status"] != psutil.STATUS_ZOMBIE]


def _group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_fork_server_ends_well_when_its_last_words_go_unread():
    server = ForkServer(RewardConfig(), SandboxConfig())
    server.load("probe", PROBE["probe"], {})
    assert select.select([server.control], [], [], 60)[0]
    assert server.close() == 0


def test_processes_die_with_a_killed_parent():
    script = """
        import psutil, sys, time
        from nemo_cascade.config.schema import RewardConfig
        from nemo_cascade.rewards.pool.pool import VerifierPool
        from nemo_cascade.rewards.response import Response
        pool = VerifierPool(RewardConfig(workers=2), {"probe": "probe_verifiers:Probe"})
        for key in range(2):
            pool.submit(key, "probe", {"do": "hang"}, Response(""))
        while len(family := psutil.Process().children(recursive=True)) < 3:
            time.sleep(0.02)
        print(*(p.pid for p in family), flush=True)
        time.sleep(600)
    """
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        family = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(family) == 3
    assert psutil.wait_procs(family, timeout=5)[1] == []


def test_verifier_names_are_listed_without_importing_any():
    code = """
        import sys
        from nemo_cascade.rewards.registry import VERIFIER_NAMES
        print({"math", "instruction"} <= set(VERIFIER_NAMES), [m for m in ("sympy", "torch") if m in sys.modules])
    """
    shown = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["True", "[]"]
