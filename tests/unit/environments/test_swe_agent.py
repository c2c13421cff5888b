"""Agents on little repositories: what mends them is worth 1, all else is worth 0 and leaves the machine as it was."""

import contextlib
import os
import signal
import socket
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest

from nemo_cascade.config.environments import EnvironmentProcessesConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.data.chat.encode import encode_prompt
from nemo_cascade.data.prompts.agent_rows import AGENT_TOOLS, agent_messages
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.environments.swe.agent import SweAgent
from nemo_cascade.errors import DataError
from nemo_cascade.nano.agent_tasks import agent_prompt, repository_tasks
from nemo_cascade.rewards import sandboxed
from nemo_cascade.rewards.verifier import VerifierError
from nemo_cascade.types import EnvironmentUse, FinishReason, Task, first_turn
from tests.support.hostile_agents import AGENTS, MEND, SUBMIT
from tests.support.hostile_patches import ROW
from tests.support.played import Player, call
from tests.support.sandbox_workers import worker_ids

TASKS = {task.instance_id: task for task in repository_tasks()}
FEW = {"calc-2", "jobs-1", "urls-1"}
QUICK = {"submits at once", "mends and takes it back", "writes the hidden tests itself", "stays behind", "calls home",
         "kills whatever it can", "makes what can't be carried", "writes on the machine", "writes through links",
         "forges what its shell reports", "looks for the hidden tests", "hands in twice", "patch: exit on import",
         "patch: report at exit", "patch: a value equal to everything", "file: conftest.py"}  # fmt: skip
HALF = {**ROW, "messages": agent_messages("half rounds down"), "tools": AGENT_TOOLS, "mode": "no_think"}


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    return tokenizers("cascade1")


def player(tokenizer, row=HALF, **settings):
    return Player(tokenizer, SweAgent(tokenizer, **{"command_s": 3.0, "test_s": 5.0, **settings}), row)


def plays(sample, calls):
    """Play calls; returns all that was said, and the last step."""
    said, step = [], None
    for one in calls:
        name, arguments = ("bash", {"command": one}) if isinstance(one, str) else one
        told, step = sample.says(call(name, **arguments))
        said.append(told or "")
        if told is None:
            break
    return "\n".join(said), step


def some(names, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in names]


def test_there_are_thirty_repositories_and_more_whose_tasks_are_all_different():
    assert len(TASKS) >= 30
    assert len({task.problem for task in TASKS.values()}) == len(TASKS)
    assert all(len(task.files) >= 5 and task.fails and task.passes for task in TASKS.values())
    assert len(AGENTS) >= 60


@pytest.mark.parametrize("name", some(TASKS, FEW))
def test_the_golden_solution_of_a_repository_is_worth_1_and_its_defect_0(tokenizer, name):
    task = TASKS[name]
    row = {**agent_prompt(task), "mode": "no_think"}
    sample = player(tokenizer, row)
    said, step = plays(sample, ["ls", ("view", {"path": task.path}), "python -m pytest", SUBMIT])
    assert "0 failed" in said
    assert step.verdict.score == 0.0
    assert all(test in step.verdict.detail for test in task.fails[:1])
    written = ("edit", {"command": "create", "path": task.path, "file_text": task.fixed})
    said, step = plays(player(tokenizer, row), [written, "python -m pytest", SUBMIT])
    assert (step.observation, step.verdict.score) == (None, 1.0)


class Machine:
    """What is looked at on this machine before and after."""

    def __init__(self, folder):
        self.mark = f"mark{uuid.uuid4().hex}"
        self.file = folder / "secret.txt"
        self.file.write_text(f"{self.mark} secret")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.heard = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.heard.append(connection)

    def fill(self, text):
        port = str(self.listener.getsockname()[1])
        return text.replace("MARK", self.mark).replace("PORT", port).replace("HOST_FILE", str(self.file))

    def filled(self, one):
        if isinstance(one, str):
            return self.fill(one)
        return one[0], {key: self.fill(value) if isinstance(value, str) else value for key, value in one[1].items()}

    def untouched(self):
        folders = ("/", "/tmp", "/var/tmp", "/dev/shm", "/etc", "/usr/bin", "/usr/lib", "/opt", "/home", "/root", ".")
        assert not [folder for folder in folders if os.path.exists(os.path.join(folder, self.mark))]
        lines = [_read(place / "cmdline") for place in Path("/proc").iterdir() if place.name.isdigit()]
        assert not [line for line in lines if self.mark.encode() in line]
        assert self.file.read_text() == f"{self.mark} secret"
        assert os.listdir(self.file.parent) == [self.file.name]
        assert self.heard == []


def _read(place):
    try:
        return place.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def machine(tmp_path):
    found = Machine(tmp_path)
    yield found
    found.listener.close()


@pytest.mark.parametrize("name", some(AGENTS, QUICK))
def test_an_agent_that_mends_nothing_is_worth_0_and_leaves_the_machine_as_it_was(tokenizer, machine, name):
    sample = player(tokenizer)
    before = open_descriptors()
    said, step = plays(sample, [*map(machine.filled, AGENTS[name]), SUBMIT])
    assert step.verdict.score == 0.0, step.verdict.detail
    assert step.observation is None
    assert f"{machine.mark} secret" not in said
    assert "FOUND" not in said
    machine.untouched()
    assert open_descriptors() <= before + 40  # the sandbox itself keeps some
    said, step = plays(player(tokenizer), ["ls -a . /tmp", MEND, SUBMIT])
    assert machine.mark not in said
    assert step.verdict.score == 1.0


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("ends", ["text", "cut off", "turns"])
def test_what_is_not_submitted_is_worth_nothing_though_it_is_mended(tokenizer, ends):
    sample = player(tokenizer)
    _, step = plays(sample, [MEND])
    assert step.verdict.score == 0.0  # what it is worth where there is no turn left
    if ends != "turns":
        reason = FinishReason.LENGTH if ends == "cut off" else FinishReason.STOP
        _, step = sample.says("It is mended." if ends == "text" else call("submit"), reason)
        assert step.observation is None
        assert (step.verdict.score, step.verdict.detail) == (0.0, "not submitted")


def test_calls_of_one_turn_are_run_in_order_and_those_behind_submit_are_not(tokenizer):
    sample = player(tokenizer)
    name, arguments = MEND
    back = call("edit", command="create", path="calc.py", file_text="")
    _, step = sample.says("\n".join([call(name, **arguments), call("submit"), back]))
    assert step.verdict.score == 1.0


def test_a_tree_is_kept_from_turn_to_turn_with_bytes_links_modes_and_empty_folders(tokenizer):
    sample = player(tokenizer)
    plays(sample, ["printf '\\xff\\x00a' > raw; mkdir -p a/b; ln -s calc.py link; echo 'echo hi' > run; chmod +x run"])
    said, _ = plays(
        sample, ["xxd -p raw; ls -d a/b; readlink link; ./run; rm raw; echo x > /tmp/beside; ls -l calc.py"]
    )
    assert all(part in said for part in ("ff0061", "a/b", "calc.py", "hi\n", "Nov 14  2023"))
    said, _ = plays(sample, ["ls; cat /tmp/beside", "sed -i 's,// 2,/ 2,' link calc.py && cat calc.py; false"])
    assert "raw" not in said
    assert "return x / 2\n[exit status 1]" in said
    assert plays(sample, [SUBMIT])[1].verdict.score == 1.0


def test_what_goes_over_a_limit_is_told_and_undone_and_the_turn_s_time_is_one_for_all_its_commands(tokenizer):
    sample = player(tokenizer, command_s=1.0, max_result_chars=300)
    said, _ = sample.says(
        "\n".join([call("bash", command="echo x > new; while true; do :; done"), call("bash", command="ls")])
    )
    assert "it took too long; what it did is undone" in said
    assert "the commands of this turn took too long" in said
    said, _ = plays(sample, ["ls; seq 100000"])
    assert "new" not in said
    assert "bytes left out" in said
    assert len(said) < 500


def test_two_samples_that_do_the_same_are_told_the_same(tokenizer):
    calls = ['ls -R; python -c \'print({1, "b", "a"}, hash("x"))\'; python -m pytest', "echo $$; pwd; ls -gG", MEND]
    first, second = (plays(player(tokenizer), calls)[0] for _ in range(2))
    assert first == second


def test_a_sandbox_that_fails_is_an_error_and_no_score(tokenizer, monkeypatch):
    from nemo_cascade.errors import SandboxError
    from nemo_cascade.sandbox.sandbox import Sandbox

    def broken(*_):
        raise SandboxError("a run broke two sandbox workers")

    for where, turn in (("run", "ls"), ("judge", SUBMIT)):
        sample = player(tokenizer)
        with monkeypatch.context() as patch:
            patch.setattr(Sandbox, where, broken)
            with pytest.raises(VerifierError, match="infrastructure"):
                plays(sample, [turn])
    monkeypatch.setattr(sandboxed, "_settings", type("Settings", (), {"isolation": "rlimits"}))
    with pytest.raises(VerifierError, match="bubblewrap"):
        plays(player(tokenizer), ["ls"])


def test_a_sandbox_whose_workers_are_killed_is_an_error_and_no_score(tokenizer):
    from nemo_cascade.environments.swe.agent import _shell

    sample = player(tokenizer, memory_mib=777)  # a sandbox of its own
    plays(sample, ["true"])
    runs = _shell(3.0, 777, 64, 9900)._runs
    over = threading.Event()

    def kill():
        while not over.wait(0.2):
            for pid in worker_ids(runs._sandbox):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(VerifierError, match="infrastructure"):
            plays(sample, ["sleep 8"])
    finally:
        over.set()
        killer.join()
    assert "calc.py" in plays(player(tokenizer, memory_mib=777), ["ls"])[0]


def test_a_row_whose_golden_patch_fails_its_own_tests_is_an_error(tokenizer):
    row = {**HALF, "fixed_files": ROW["files"]}
    with pytest.raises(VerifierError, match="golden patch fails"):
        plays(player(tokenizer, row), [SUBMIT])


def test_a_row_that_does_not_offer_the_tools_is_refused(tokenizer):
    with pytest.raises(DataError, match="agent's tools"):
        player(tokenizer, {**HALF, "tools": AGENT_TOOLS[:2]})


def hosted(tokenizer, agents, deadline_s):
    """Play agents at once in processes of their own, and return what each is worth."""
    folder = str(Path(tokenizer.folder))
    use = EnvironmentUse("swe_agent", {"command_s": 3.0, "test_s": 5.0}, 200, deadline_s)
    prompt = encode_prompt(tokenizer, HALF["messages"], HALF["mode"], HALF["tools"])
    task = Task("t/1", "swe", "format", prompt, HALF, environment=use)
    with EnvironmentHosts(EnvironmentProcessesConfig(processes=2), folder, SandboxConfig()) as hosts:
        places = range(len(agents))
        said = dict.fromkeys(places)
        given = {n: f.result() for n, f in [(n, hosts.start(task, n, 10**6, deadline_s)) for n in places]}
        worth = {}
        for turn in range(max(map(len, agents))):
            asked = {}
            for n in [n for n in places if n not in worth]:
                name, arguments = agents[n][turn]
                ids = np.append(tokenizer.encode(call(name, **arguments)), tokenizer.end_id).astype(np.int32)
                answer = first_turn("t/1", n, given[n], ids, np.zeros(ids.size, np.float32), FinishReason.STOP, 1)
                said[n] = answer if said[n] is None else said[n].followed_by(answer)
                asked[n] = hosts.step(task, said[n], 10**6, deadline_s)
            for n, future in asked.items():
                step = future.result()
                if step.observation is None:
                    worth[n] = step.verdict.score
                else:
                    given[n] = np.concatenate([said[n].token_ids, step.observation])
        assert hosts.ended == 0
    return [worth[n] for n in places]


@pytest.mark.long
def test_sixty_four_at_once_lose_nothing(tokenizer):
    def agent(n):
        note = ("bash", {"command": f"cat note 2>/dev/null; echo {n} >> note"})
        check = ("bash", {"command": f'test "$(sort -u note)" = {n} || rm -rf *'})
        return [note, note, MEND if n % 2 else note, note, check, SUBMIT]

    assert hosted(tokenizer, [agent(n) for n in range(64)], 600.0) == [n % 2 for n in range(64)]


@pytest.mark.long
def test_two_hundred_turns_in_a_row(tokenizer):
    sample = player(tokenizer)
    for turn in range(198):
        plays(sample, [f"test $(cat log 2>/dev/null | wc -l) = {turn} && echo line {turn} >> log"])
    said, _ = plays(sample, ["wc -l log", MEND])
    assert "198 log" in said
    assert plays(sample, [SUBMIT])[1].verdict.score == 1.0
    assert sample.said.num_turns == 201
