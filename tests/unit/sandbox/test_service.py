"""The service over real HTTP, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from nemo_cascade.cli import serve
from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import ConfigError, SandboxError
from nemo_cascade.sandbox.client import SandboxClient
from nemo_cascade.sandbox.judging import FunctionTests, IoCase
from nemo_cascade.sandbox.program import Program, Status

TOKEN = "correct-horse-battery-staple"
QUEUE = 8
HTTP = httpx.Client(timeout=60, verify=False, limits=httpx.Limits(max_connections=256))


class Server:
    """`nemo-cascade serve sandbox` on a free port of loopback."""

    def __init__(self, folder):
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN + "\n")
        self.token_file.chmod(0o600)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [sys.executable, "-m", "nemo_cascade", "serve", "sandbox", "--port", str(self.port), "--workers", "2"]
        command += ["--token-file", str(self.token_file), "--queue", str(QUEUE), "--body-mib", "1"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def wait(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                return HTTP.get(self.url + "/v1/health").json()
            except httpx.TransportError:
                assert self.process.poll() is None, self.process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("service"))
    made.wait()
    yield made
    made.process.send_signal(signal.SIGTERM)
    made.process.wait(30)
    made.process.stderr.close()


@pytest.fixture(scope="module")
def client(server):
    made = SandboxClient(server.url, TOKEN, deadline_s=120.0)
    yield made
    made.close()


def post(server, body, token=TOKEN, path="/v1/runs", **headers):
    headers = {"Authorization": f"Bearer {token}"} | headers
    content = {"content": body} if isinstance(body, (bytes, str)) else {"json": body}
    return HTTP.post(server.url + path, headers=headers, **content)


def run_body(source):
    return {"program": {"language": "python", "source": source}}


def test_what_the_sandbox_answers_the_client_gets(client):
    files = {"data.bin": bytes(range(256))}
    program = Program(
        "python",
        "import sys\nprint(len(open('data.bin','rb').read()), sys.stdin.buffer.read(), sys.argv[1:])",
        b"\xff",
        files,
        ("a",),
    )
    assert client.run(program).stdout == "256 b'\\xff' ['a']\n"
    assert client.run(Program("python", "1/0")).status is Status.ERROR
    assert client.run(Program("python", "while True: pass"), Limits(wall_s=0.3)).status is Status.TIMEOUT
    add = Program("python", "def add(a, b): return a + b")
    assert client.judge(add, FunctionTests(("assert add(1, 2) == 3", "assert add(1, 2) == 4"))).results == (True, False)
    double = Program("cpp", "#include <iostream>\nint main() { int x; std::cin >> x; std::cout << 2 * x; }")
    assert client.judge_output(double, [IoCase("4", "8"), IoCase("5", "11")]).results == (True, False)


@pytest.mark.parametrize(
    ("body", "token", "status", "error"),
    [
        ("{", TOKEN, 422, "invalid"),
        ("[]", TOKEN, 422, "invalid"),
        ({"program": {"language": "perl", "source": ""}}, TOKEN, 422, "invalid"),
        ({"program": {"language": "python", "source": "", "files": {"../x": "eA=="}}}, TOKEN, 422, "invalid"),
        ({**run_body("1"), "limits": {"wall_s": -1}}, TOKEN, 422, "invalid"),
        ({**run_body("1"), "limit": {}}, TOKEN, 422, "invalid"),
        (run_body("1"), "wrong", 401, "unauthorized"),
        (run_body("x" * (2 << 20)), TOKEN, 413, "too_large"),
    ],
    ids=["bad-json", "no-object", "language", "path", "limit", "unknown-key", "wrong-token", "too-large"],
)
def test_bad_requests_are_refused_with_their_reason(server, body, token, status, error):
    answer = post(server, body, token)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["detail"]


def test_a_body_without_a_length_is_cut_off_at_the_limit(server):
    chunks = (b"x" * 65536 for _ in range(64))
    answer = HTTP.post(server.url + "/v1/runs", headers={"Authorization": f"Bearer {TOKEN}"}, content=chunks)
    assert answer.status_code == 413


def test_the_api_documents_itself_without_the_token(server):
    document = HTTP.get(server.url + "/openapi.json").json()
    assert {"/v1/runs", "/v1/judgements", "/v1/output-judgements", "/v1/health"} <= set(document["paths"])
    assert {"200", "401", "409", "413", "422", "429", "503"} <= set(document["paths"]["/v1/runs"]["post"]["responses"])


def test_a_repeated_key_gets_the_first_answer_and_runs_once(server):
    body = run_body("import time; print(time.time_ns())")
    answers = [post(server, body, **{"Idempotency-Key": "same"}) for _ in range(3)]
    assert len({answer.json()["stdout"] for answer in answers}) == 1
    with ThreadPoolExecutor(4) as threads:
        slow = run_body("import time; time.sleep(0.3); print(time.time_ns())")
        together = list(threads.map(lambda _: post(server, slow, **{"Idempotency-Key": "together"}).text, range(4)))
    assert len(set(together)) == 1
    other = post(server, run_body("print(1)"), **{"Idempotency-Key": "same"})
    assert (other.status_code, other.json()["error"]) == (409, "conflict")


def test_200_requests_at_once_are_answered_or_pushed_back_and_the_client_gets_them_all(server, client):
    body = run_body("import time; time.sleep(0.02)")
    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(lambda _: post(server, body), range(200)))
    codes = Counter(answer.status_code for answer in answers)
    assert set(codes) == {200, 429}, codes
    assert codes[200] >= QUEUE + 2
    assert all(answer.headers["Retry-After"] == "1" for answer in answers if answer.status_code == 429)
    assert HTTP.get(server.url + "/v1/health").json()["in_flight"] == 0
    outcomes = client.run_many([Program("python", f"print({i})") for i in range(200)])
    assert [outcome.stdout for outcome in outcomes] == [f"{i}\n" for i in range(200)]


def test_a_server_killed_and_restarted_loses_nothing(server, client):
    programs = [
        Program("python", f"import time; time.sleep(0.05); print({i} if {i} % 3 else 1 / 0)") for i in range(60)
    ]
    results = []
    repeated = client.repeated
    batch = threading.Thread(target=lambda: results.extend(client.run_many(programs)))
    batch.start()
    time.sleep(0.8)
    server.kill()
    time.sleep(0.3)
    server.start()
    batch.join(120)
    assert client.repeated > repeated
    assert [(outcome.status, outcome.stdout) for outcome in results] == [
        (Status.OK, f"{i}\n") if i % 3 else (Status.ERROR, "") for i in range(60)
    ]


def test_a_service_that_is_gone_is_an_infrastructure_error_never_a_verdict():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    gone = SandboxClient(f"http://127.0.0.1:{port}", TOKEN, deadline_s=1.0, first_pause_s=0.05)
    with pytest.raises(SandboxError, match="nothing is known about the program"):
        gone.run(Program("python", "print(1)"))
    assert gone.repeated >= 2
    gone.close()


def test_a_refused_token_is_told_at_once(server):
    wrong = SandboxClient(server.url, "wrong-token-wrong-token", deadline_s=30.0)
    started = time.monotonic()
    with pytest.raises(SandboxError, match="401"):
        wrong.run(Program("python", "print(1)"))
    assert time.monotonic() - started < 5
    wrong.close()


def test_token_files_that_others_can_read_are_refused(tmp_path):
    with pytest.raises(SandboxError, match="no token file"):
        serve.read_token(tmp_path / "absent")
    file = tmp_path / "token"
    file.write_text("short")
    file.chmod(0o644)
    with pytest.raises(SandboxError, match="chmod 600"):
        serve.read_token(file)
    file.chmod(0o600)
    with pytest.raises(SandboxError, match="too short"):
        serve.read_token(file)


def test_options_out_of_range_are_all_named(tmp_path):
    from nemo_cascade.cli.main import parse

    args = parse(["serve", "sandbox", "--token-file", str(tmp_path), "--workers", "0", "--queue", "-1"])
    with pytest.raises(ConfigError) as refused:
        serve.configuration(args)
    assert len(refused.value.violations) == 2
