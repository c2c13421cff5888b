"""vLLM's real server under a tool: the mode reaches the prompt, and nothing is left, however the tool ends."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from tests.e2e.cascade_process import wait_until_gone
from tests.support.tiny_policy import write_tiny_folder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

# Takes NeMo-Skills' place: reads its arguments, asks the server what it makes of a prompt, and leaves a result.
TOOL = """#!{python}
import json, os, sys, time, urllib.request
given = dict(word.lstrip("-+").split("=", 1) for word in sys.argv[2:])
def post(path, **body):
    url = given["server_address"].removesuffix("/v1") + path
    request = urllib.request.Request(url, json.dumps(body).encode(), {{"Content-Type": "application/json"}})
    return json.load(urllib.request.urlopen(request))
turns = [("user", "two"), ("assistant", "four"), ("user", "six")]
messages = [{{"role": role, "content": content}} for role, content in turns]
ids = post("/tokenize", model=given["model"], messages=messages)["tokens"]
prompt = post("/detokenize", model=given["model"], tokens=ids)["prompt"]
reply = post("/v1/chat/completions", model=given["model"], messages=messages, max_tokens=4)["usage"]
folder = os.path.join(given["output_dir"], "eval-results", "probe")
os.makedirs(folder)
with open(os.path.join(folder, "metrics.json"), "w") as file:
    json.dump({{"prompt": prompt, "usage": reply}}, file)
if os.environ.get("PROBE") == "hang":
    time.sleep(600)
sys.exit(3 if os.environ.get("PROBE") == "fail" else 0)
"""
SERVER = "--server-args=--enforce-eager --dtype float32 --max-num-seqs 4"
BUDGET = ["--budget", "256", "--prompt-tokens", "64", "--concurrency", "4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "hf"
    write_tiny_folder(folder, vocab_size=512, head_dim=32)  # vLLM on CPU has no kernel for 16
    train_nano_tokenizer(["user assistant two four six think no"] * 8, folder)
    return folder


def begin(model, out, tool, *more, **extra):
    """Start the command in a process of its own, its output in a file beside `out`."""
    place = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1", "PROBE_MARK": str(out)}
    command = [sys.executable, "-m", "nemo_cascade", "evaluate", str(model), "--with", tool, "--out", str(out)]
    with (out.parent / f"{out.name}.txt").open("wb") as said:
        return subprocess.Popen([*command, *BUDGET, SERVER, *more], env={**os.environ, **place, **extra},
                                stdout=said, stderr=said)  # fmt: skip


def marked(out):
    """Return the processes that carry the mark of a command in their environment: all that it started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PROBE_MARK") == str(out):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def probe(tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "ns"
    tool.parent.mkdir()
    tool.write_text(TOOL.format(python=sys.executable))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.long
def test_every_user_turn_has_the_flag_and_a_failed_tool_leaves_nothing(model, tmp_path, probe):
    out = tmp_path / "out"
    process = begin(model, out, "ns", "--benchmarks", "probe:2", "--mode", "no_think", PROBE="fail")
    code = process.wait(300)
    said = (tmp_path / "out.txt").read_text()
    assert code == 2, said
    assert "exit code 3" in said
    assert not wait_until_gone(marked(out))
    metrics = json.loads((out / "tool" / "eval-results" / "probe" / "metrics.json").read_text())
    assert metrics["prompt"].count(" /no_think<|im_end|>") == 2
    assert metrics["usage"]["completion_tokens"] <= 4
    assert (out / "server.log").stat().st_size > 0


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_it_leaves_no_process(model, tmp_path, probe, number):
    out = tmp_path / "out"
    process = begin(model, out, "ns", "--benchmarks", "probe:2", PROBE="hang")
    metrics, end = out / "tool" / "eval-results" / "probe" / "metrics.json", time.monotonic() + 200
    while not metrics.is_file():
        assert process.poll() is None, (tmp_path / "out.txt").read_text()
        assert time.monotonic() < end, "the tool never came to its end"
        time.sleep(0.3)
    assert len(family := marked(out)) >= 3, family  # the command, its server and the tool, at least
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGINT else -9)
    assert not wait_until_gone(family, timeout_s=40)
    assert not marked(out)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_lm_eval_itself_scores_a_local_task(model, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "rows.jsonl").write_text('{"question": "two", "answer": "four"}\n' * 3)
    task = {
        "task": "rows",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tasks / "rows.jsonl")}},
    }
    task |= {"test_split": "test", "output_type": "generate_until", "doc_to_text": "{{question}}"}
    task |= {"doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match"}]}
    (tasks / "rows.yaml").write_text(json.dumps(task))
    out = tmp_path / "out"
    more = ["--benchmarks", "rows", "--task-folder", str(tasks), "--mode", "no_think"]
    assert begin(model, out, "lm-eval", *more).wait(300) == 0, (tmp_path / "out.txt").read_text()
    facts = json.loads((out / "results.json").read_text())
    (found,) = facts["results"].values()
    assert found["n-samples"]["rows"]["effective"] == 3
    assert 0 <= found["results"]["rows"]["exact_match,none"] <= 1
    assert not wait_until_gone(marked(out))
