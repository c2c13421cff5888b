"""The system call filters of zygote and program, as classic BPF. Layout: linux/seccomp.h, linux/filter.h."""

import ctypes
import errno
import struct
from typing import Any

from .confine import Step, take
from .syscalls import numbers

_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in struct seccomp_data, low words
_CLONE_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWTIME
_CLONE_FORBIDDEN = _CLONE_NEW_NAMESPACES & ~0x20020000  # the zygote's children get a new NEWPID and NEWNS
_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_TERMINAL_INJECTIONS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_PROCESS_MAKERS = ("fork", "vfork")
# Commands of fcntl that reach beyond the run: OFD locks, leases, notices of folders (linux/fcntl.h).
_SHARED_BY_FILE = (36, 37, 38, 1024, 1025, 1026)
_SIGNALLERS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")

Instruction = tuple[int, int, int, int]

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def _refuse(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)


_PASS, _REFUSE = (_RETURN, 0, 0, _ALLOW), _refuse(errno.EPERM)


def _decide(verdicts: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Return a binary search over (first number, what to do from there on): few steps for every number."""
    if len(verdicts) == 1:
        return verdicts[0][1]
    middle = len(verdicts) // 2
    below, above = _decide(verdicts[:middle]), _decide(verdicts[middle:])
    return [(_JUMP_GREATER_EQUAL, 0, 1, verdicts[middle][0]), (_JUMP, 0, 0, len(below)), *below, *above]


def zygote_filter(machine: str) -> bytes:
    """Return the filter that the zygote puts on itself and so on all children, before it knows any program.

    It refuses all that no program may do, except what the zygote and a child that shuts itself in still need; that is
    left to program_filter(). So the long filter is checked and compiled once by the kernel, not in each run.

    Args:
        machine: as platform.machine() says, `x86_64` or `aarch64`.

    Raises:
        KeyError: on a machine for which no system call numbers are known.
    """
    inspected = numbers("inspected", machine)
    unsupported = _refuse(errno.EOPNOTSUPP)
    tables = (("allowed", _PASS), ("refused", _REFUSE), ("unsupported", unsupported), ("setup", _PASS))
    rules = {number: [verdict] for which, verdict in tables for number in numbers(which, machine).values()}
    rules[inspected["clone"]] = [(_LOAD, 0, 0, _FIRST_ARGUMENT), (_JUMP_SET, 0, 1, _CLONE_FORBIDDEN), _REFUSE, _PASS]
    rules[inspected["socketpair"]] = [(_LOAD, 0, 0, _FIRST_ARGUMENT), (_JUMP_EQUAL, 0, 1, _AF_UNIX), _PASS, _REFUSE]
    rules[inspected["ioctl"]] = [
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_JUMP_EQUAL, 2, 0, _TERMINAL_INJECTIONS[0]),
        (_JUMP_EQUAL, 1, 0, _TERMINAL_INJECTIONS[1]),
        _PASS,
        _REFUSE,
    ]
    jumps: list[Instruction] = [
        (_JUMP_EQUAL, len(_SHARED_BY_FILE) - place, 0, command) for place, command in enumerate(_SHARED_BY_FILE)
    ]
    rules[inspected["fcntl"]] = [(_LOAD, 0, 0, _SECOND_ARGUMENT), *jumps, _PASS, _REFUSE]
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        *_decide(_spans(rules)),
    ]
    return _encoded(program)


def program_filter(machine: str, allow_processes: bool) -> bytes:
    """Return the filter that a child adds before its program starts.

    Args:
        machine: as above.
        allow_processes: False also refuses new processes (threads stay) and all signals, for where no process
            namespace confines them.
    """
    refused = list(numbers("setup", machine).values())
    clone_check = (_JUMP_SET, 0, 1, _CLONE_NEW_NAMESPACES)
    if not allow_processes:
        allowed = numbers("allowed", machine)
        refused += [allowed[name] for name in (*_PROCESS_MAKERS, *_SIGNALLERS) if name in allowed]
        clone_check = (_JUMP_SET, 1, 0, _CLONE_THREAD)
    program: list[Instruction] = [(_LOAD, 0, 0, _NUMBER)]
    for number in refused:
        program += [(_JUMP_EQUAL, 0, 1, number), _REFUSE]
    clone = numbers("inspected", machine)["clone"]
    program += [(_JUMP_EQUAL, 1, 0, clone), _PASS, (_LOAD, 0, 0, _FIRST_ARGUMENT), clone_check, _REFUSE, _PASS]
    return _encoded(program)


def fork_filter(machine: str) -> bytes:
    """Return the filter that a program adds which may start threads but no processes."""
    allowed, clone = numbers("allowed", machine), numbers("inspected", machine)["clone"]
    program: list[Instruction] = [(_LOAD, 0, 0, _NUMBER)]
    for name in _PROCESS_MAKERS:
        if name in allowed:
            program += [(_JUMP_EQUAL, 0, 1, allowed[name]), _REFUSE]
    thread_check = (_JUMP_SET, 1, 0, _CLONE_THREAD)
    program += [(_JUMP_EQUAL, 1, 0, clone), _PASS, (_LOAD, 0, 0, _FIRST_ARGUMENT), thread_check, _REFUSE, _PASS]
    return _encoded(program)


def _encoded(program: list[Instruction]) -> bytes:
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _spans(rules: dict[int, list[Instruction]]) -> list[tuple[int, list[Instruction]]]:
    """Return runs of numbers with the same rule as (first number, rule), gaps included."""
    unknown = [_refuse(errno.ENOSYS)]  # clone3 too: libc then falls back to clone, whose flags can be read
    spans: list[tuple[int, list[Instruction]]] = []
    for number in range(max(rules) + 2):
        rule = rules.get(number, unknown)
        if not spans or spans[-1][1] != rule:
            spans.append((number, rule))
    return spans


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def prepare(program: bytes) -> Any:
    """Return a filter in the form that install() takes."""
    keep = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(keep))
    return header, keep, ctypes.byref(header)


def installing(prepared: Any) -> Step:
    """Return the step that puts a filter on the calling process and all it will start; it can't be taken off."""
    set_seccomp, mode_filter = 22, 2
    return (_prctl, (set_seccomp, mode_filter, prepared[2], 0, 0), "system call filter")


def install(prepared: Any) -> None:
    """Take that step.

    Raises:
        OSError: where the kernel refuses.
    """
    take([installing(prepared)])
