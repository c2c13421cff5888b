"""Prove that the isolation which was asked for is really there, by a program that looks for it from inside."""

import json
from collections.abc import Callable

from nemo_cascade.config.sandbox import Limits
from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.inside import landlock
from nemo_cascade.sandbox.program import Outcome, Program

_LIMITS = Limits(cpu_s=5, wall_s=20, memory_mib=256, output_kib=64, processes=3, files_mib=1)
_LOOK = """
import ctypes, json, os, socket
libc = ctypes.CDLL(None)
get_seccomp, get_no_new_privs, capability_version = 21, 39, 0x20080522
capabilities = (ctypes.c_uint32 * 6)(*[1] * 6)
libc.capget((ctypes.c_uint32 * 2)(capability_version, 0), capabilities)
def unreadable(path):
    return refused(lambda: open(path).close())
def refused(attempt):
    try:
        attempt()
    except (OSError, MemoryError):
        return True
    return False
def fill():
    with open("full", "wb") as file:
        file.write(bytes(2 << 20))
def too_many():
    children = []
    try:
        for _ in range(12):
            pid = os.fork()
            if pid == 0:
                os.close(hold)
                os.read(gate, 1)
                os._exit(0)
            children.append(pid)
    finally:
        os.close(hold)
        for pid in children:
            os.waitpid(pid, 0)
gate, hold = os.pipe()
print(json.dumps({
    "system call filter": libc.prctl(get_seccomp, 0, 0, 0, 0) == 2,
    "no new privileges": libc.prctl(get_no_new_privs, 0, 0, 0, 0) == 1,
    "no capabilities": not any(capabilities),
    "no sockets": refused(lambda: socket.socket()),
    "memory limit": refused(lambda: bytearray(512 << 20)),
    "file size limit": refused(fill),
    "own process namespace": os.getpid() == 1 and not any(os.path.exists(f"/proc/{pid}") for pid in range(2, 400)),
    "nothing of the host in /proc": unreadable("/proc/self/mountinfo"),
    "not root": os.getuid() >= 1000,
    "no accounts, homes or devices": not any(map(os.path.exists, ("/etc/shadow", "/home", "/dev/mem", "/sys"))),
    "read-only root": refused(lambda: open("/written", "w")) and refused(lambda: open("/usr/lib/written", "w")),
    "empty working folder": os.listdir(".") in ([], ["full"]),
    "process limit": refused(too_many),
}))
"""
_BY_LANDLOCK = "nothing of the host in /proc"
_WITHOUT_NAMESPACES = ("system call filter", "no new privileges", "no capabilities", "no sockets", "memory limit")


def prove_isolation(run: Callable[[Program, Limits], Outcome], namespaces: bool) -> None:
    """Run the proof once.

    Args:
        run: runs a program.
        namespaces: bubblewrap was asked for, not mere resource limits.

    Raises:
        SandboxError: naming everything that is missing.
    """
    outcome = run(Program("python", _LOOK), _LIMITS)
    if not outcome.ok:
        raise SandboxError("the proof of isolation failed to run", value=f"{outcome.detail} {outcome.stderr[-500:]}")
    found = json.loads(outcome.stdout)
    asked = set(found) if namespaces else set(_WITHOUT_NAMESPACES)
    if landlock.version() == 0:
        asked.discard(_BY_LANDLOCK)
    missing = [name for name, holds in found.items() if not holds and name in asked]
    if missing:
        raise SandboxError(
            "the sandbox doesn't isolate here",
            value="missing: " + ", ".join(missing),
            mend="report the kernel's version",
        )
