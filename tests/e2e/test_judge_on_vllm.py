"""Judge client and generative reward model against vLLM's own OpenAI server with SmolLM2's real weights."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from nemo_cascade.actors.genrm import GenRMGroup
from nemo_cascade.config.judge import GenRMConfig
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.rewards.judge import JudgeClient
from nemo_cascade.rewards.verifier import VerifierError
from nemo_cascade.types import FinishReason, Task, first_turn

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.long]

QUESTION = [{"role": "user", "content": "Is Paris the capital of France? Answer with one word, YES or NO."}]
# A model of 135M parameters writes no such line by itself; the server's grammar makes it.
GRAMMAR = {
    "type": "object",
    "properties": {
        "score_1": {"type": "integer", "minimum": 1, "maximum": 5},
        "score_2": {"type": "integer", "minimum": 1, "maximum": 5},
        "ranking": {"type": "integer", "minimum": 1, "maximum": 6},
    },
    "required": ["score_1", "score_2", "ranking"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(smollm2_folder, tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2_folder)]
    command += ["--served-model-name", "judge", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "1024", "--max-num-seqs", "8", "--enforce-eager", "--disable-log-stats"]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "TORCH_COMPILE_DISABLE": "1",
    }
    log = tmp_path_factory.mktemp("judge") / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        wait_until_up(server, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_until_up(server, port, log, timeout_s=180):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"no server within {timeout_s} s: {log.read_text()[-3000:]}")


def test_yes_probability_is_the_models_own(url, smollm2_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    served = JudgeClient(url, "judge").yes_probability(QUESTION)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        probabilities = model(**ids).logits[0, -1].double().softmax(-1)
    pooled = {"YES": 0.0, "NO": 0.0}
    for token in probabilities.topk(20).indices.tolist():  # as many as a server tells
        word = tokenizer.decode([token]).strip().upper()
        if word in pooled:
            pooled[word] += probabilities[token].item()
    assert served == pytest.approx(pooled["YES"] / sum(pooled.values()), abs=1e-3)


def test_a_group_of_rollouts_is_compared_and_rewarded(url, smollm2_folder):
    tokenizer = load_tokenizer(smollm2_folder)
    prompt = Task("p", "chat", "genrm", np.array([1], np.int32), {"messages": QUESTION})
    schema = {"type": "json_schema", "json_schema": {"name": "comparison", "schema": GRAMMAR}}
    config = GenRMConfig(url=url, model="judge", temperature=0.0, max_tokens=64, request={"response_format": schema})
    found = []
    for _ in range(2):
        judge, samples = GenRMGroup(config, smollm2_folder, 3), []
        for sample, text in enumerate(("Paris.", "It is Paris, of course, the city of light.", "London.")):
            ids = np.array(tokenizer.encode(text), np.int32)
            logprobs = np.zeros(len(ids), np.float32)
            samples.append((prompt, first_turn("p", sample, ids, ids, logprobs, FinishReason.STOP, 1)))
        judge.submit(samples)
        found.append(dict(judge.drain()))
        judge.close()
    scores = {key: verdict.score for key, verdict in found[0].items()}
    assert list(scores) == [("p", 0), ("p", 1), ("p", 2)]
    # Comparisons give 1 to 5, and 2.5 more or less for the ranking of a tie; length control adds at most 1.5.
    assert all(-3 <= score <= 9 for score in scores.values())
    assert not any("undecided" in verdict.detail for verdict in found[0].values())
    assert scores == {key: verdict.score for key, verdict in found[1].items()}


def test_a_model_that_the_server_lacks_is_an_error_not_a_score(url):
    with pytest.raises(VerifierError, match="infrastructure"):
        JudgeClient(url, "another").yes_probability(QUESTION)
