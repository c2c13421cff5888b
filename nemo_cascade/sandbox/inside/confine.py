"""Give up power, step by step: namespaces, private /tmp and /proc, user, capabilities, limits."""

import ctypes
import math
import os
import resource
from collections.abc import Iterable, Mapping
from typing import Any

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x8, 0x20, 0x4000, 0x40000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = (
    1,
    4,
    23,
    24,
    38,
    47,
)
_PR_CAP_AMBIENT_CLEAR_ALL, _CAPABILITY_VERSION_3, _LAST_CAPABILITY = 4, 0x20080522, 63
_SIGKILL, _SIGCHLD = 9, 17
_CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine, -1)
_CLONE_ARGUMENTS = {
    new_namespaces: (ctypes.c_long(_CLONE), ctypes.c_ulong(_SIGCHLD | flags), 0, 0, 0, 0)
    for new_namespaces, flags in ((False, 0), (True, _CLONE_NEWPID | _CLONE_NEWNS))
}
_INODES_PER_MIB = 256
_STACK_BYTES = 64 << 20
_OPEN_FILES = 128

BOX = "/box"
"""Folder that holds the folder of a run, /tmp: rules of file access name it, what isn't there yet has no name."""
FIRST_UID = 1000
"""User and group of programs, as they see them; the only one where the sandbox has just one to give."""
UIDS = 32
"""Users that programs take turns with, so that what the kernel counts by user is counted for each run alone."""

_HARD_LIMITS = {
    kind: resource.getrlimit(kind)[1]
    for kind in (
        *(resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_STACK),
        *(resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE),
    )
}
_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)
# Functions are looked up here once: a look-up in a child touches some sixty pages, and each is copied then.
_clone, _mount, _prctl, _capset = _libc_with_gil.syscall, _libc.mount, _libc.prctl, _libc.capset
_setresuid, _setresgid, _chdir = _libc.setresuid, _libc.setresgid, _libc.chdir
_CAPABILITY_HEADER = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()


Step = tuple[Any, tuple[Any, ...], str]
"""A C function, its arguments, and what it does."""

HARMLESS: tuple[Step, ...] = ((_libc.sched_yield, (), "yield"),)
"""To rehearse take()."""


def last_error(what: str) -> OSError:
    """Return the error of the C function that failed last."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def take(steps: Iterable[Step]) -> None:
    """Do steps that were made ready before, in order.

    Raises:
        OSError: for the first that fails.
    """
    for call, arguments, what in steps:
        if call(*arguments) != 0:
            raise last_error(what)


def forking(new_namespaces: bool) -> tuple[Any, tuple[Any, ...]]:
    """Return function and arguments that fork as os.fork() does, optionally into new process and mount namespaces.

    The result is the child's number, 0 in the child, -1 for an error. This is the bare system call, for a process with
    one thread only: os.fork() would also run the handlers that random and threading have registered, which cost a third
    of a short run (they touch some 180 pages that have to be copied then), and have nothing to do where there is no
    other thread. So `random` starts alike in all children.
    """
    return _clone, _CLONE_ARGUMENTS[new_namespaces]


def _mounting(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None) -> Step:
    return (_mount, (source, target, kind, ctypes.c_ulong(flags), options), f"mount {target.decode()}")


def make_mounts_private() -> None:
    """Let no mount of a child appear anywhere else. For the zygote: its children inherit it."""
    take([_mounting(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)])


def private_mounts(files_mib: int, uid: int) -> list[Step]:
    """Give a process in fresh namespaces a /tmp of limited size and the /proc of its own process namespace."""
    inodes = _INODES_PER_MIB * files_mib + 64
    options = f"size={files_mib}m,nr_inodes={inodes},mode=755,uid={uid},gid={uid}"
    return [
        _mounting(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None),
        _mounting(b"tmpfs", f"{BOX}/tmp".encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode()),
    ]


def forswear_gains(change_user: bool) -> None:
    """Let no exec ever give more than is held now, set what is alike for all. For the zygote: its children inherit it.

    Args:
        change_user: children become another user, so the zygote's groups must go.
    """
    if change_user:
        os.setgroups([])
    for capability in range(_LAST_CAPABILITY + 1):
        if _prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            # Without CAP_SETPCAP the bounding set stays; no_new_privs makes it meaningless.
            _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    take([(_prctl, (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")])


def drop_privileges(uid: int | None, alone: bool) -> list[Step]:
    """Become the program's user and lose every capability.

    Args:
        uid: the user; None: stay who one is, where the namespace has no other.
        alone: no other process can see this one. Then it may open its own streams by their names, as /dev/stdin.
    """
    become_user: list[Step] = []
    if uid is not None:
        become_user = [(_setresgid, (uid, uid, uid), "setresgid"), (_setresuid, (uid, uid, uid), "setresuid")]
    return [
        *become_user,
        (_capset, (_CAPABILITY_HEADER, _NO_CAPABILITIES), "capset"),
        # Nobody of the same user may look into its memory; that it may switch this off for itself is its own affair.
        (_prctl, (_PR_SET_DUMPABLE, int(alone), 0, 0, 0), "dumpable"),
    ]


def change_folder(folder: str) -> list[Step]:
    """Go to the folder where the program runs."""
    return [(_chdir, (folder.encode(),), "chdir")]


def die_with_parent() -> None:
    """Ask the kernel to kill the calling process when its parent dies."""
    take([(_prctl, (_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "parent death signal")])


def limit_resources(limits: Mapping[str, float], process_overhead: int) -> None:
    """Set the resource limits of one run.

    Args:
        limits: the fields of Limits.
        process_overhead: processes of the sandbox itself that the kernel counts to the same user.
    """
    _limit(resource.RLIMIT_AS, int(limits["memory_mib"]) << 20)
    # The zygote watches the exact limit; this is the net under it.
    _limit(resource.RLIMIT_CPU, math.ceil(limits["cpu_s"]) + 1)
    _limit(resource.RLIMIT_NPROC, int(limits["processes"]) + process_overhead)
    _limit(resource.RLIMIT_FSIZE, int(limits["files_mib"]) << 20)


def limit_what_is_alike_for_all() -> None:
    """Set the resource limits that no run decides. For the zygote: its children inherit them."""
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_STACK, _STACK_BYTES)


def _limit(kind: int, value: int) -> None:
    """Set a limit that can't be raised again; where a lower one holds already it stays."""
    hard = _HARD_LIMITS[kind]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
