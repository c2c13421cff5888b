"""The system call filter of a confined program, as classic BPF. Layout: linux/seccomp.h, linux/filter.h."""

from __future__ import annotations

import ctypes
import errno
import struct

from .syscalls import numbers

_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in struct seccomp_data, low words
_CLONE_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWTIME
_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_TERMINAL_INJECTIONS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_PROCESS_MAKERS = ("fork", "vfork")
_SIGNALLERS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")

Instruction = tuple[int, int, int, int]


def _refuse(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)


def _ranges(values: set[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for value in sorted(values):
        if spans and spans[-1][1] == value - 1:
            spans[-1] = (spans[-1][0], value)
        else:
            spans.append((value, value))
    return spans


def _spans(values: set[int], verdict: Instruction) -> list[Instruction]:
    """Give a verdict on all numbers in a set, ascending; fall through on the others."""
    program: list[Instruction] = []
    for low, high in _ranges(values):
        program += [(_JUMP_GREATER, 2, 0, high), (_JUMP_GREATER_EQUAL, 0, 1, low), verdict]
    return program


def build_filter(machine: str, allow_processes: bool) -> bytes:
    """Return the filter program for a machine (`x86_64` or `aarch64`).

    Args:
        machine: as platform.machine() says.
        allow_processes: False also refuses new processes (threads stay) and all signals, for where no process
            namespace confines them.

    Raises:
        KeyError: on a machine for which no system call numbers are known.
    """
    allowed, refused = numbers("allowed", machine), numbers("refused", machine)
    inspected = numbers("inspected", machine)
    if not allow_processes:
        for name in (*_PROCESS_MAKERS, *_SIGNALLERS):
            if name in allowed:
                refused[name] = allowed.pop(name)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    program += _spans(set(allowed.values()), (_RETURN, 0, 0, _ALLOW))
    program += _clone_rule(inspected["clone"], allow_processes)
    program += [
        (_JUMP_EQUAL, 0, 4, inspected["socketpair"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_EQUAL, 0, 1, _AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        _refuse(errno.EPERM),
        (_JUMP_EQUAL, 0, 5, inspected["ioctl"]),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_JUMP_EQUAL, 2, 0, _TERMINAL_INJECTIONS[0]),
        (_JUMP_EQUAL, 1, 0, _TERMINAL_INJECTIONS[1]),
        (_RETURN, 0, 0, _ALLOW),
        _refuse(errno.EPERM),
    ]
    program += _spans(set(refused.values()), _refuse(errno.EPERM))
    program.append(_refuse(errno.ENOSYS))  # clone3 too: libc then falls back to clone, whose flags can be read here
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _clone_rule(number: int, allow_processes: bool) -> list[Instruction]:
    if allow_processes:
        check = [(_JUMP_SET, 0, 1, _CLONE_NEW_NAMESPACES), _refuse(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    else:
        check = [(_JUMP_SET, 1, 0, _CLONE_THREAD), _refuse(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    return [(_JUMP_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST_ARGUMENT), *check]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def install(program: bytes) -> None:
    """Put a filter on the calling process and all it will start; it can't be taken off.

    Raises:
        OSError: where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    keep = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(keep))
    set_seccomp, mode_filter = 22, 2
    if libc.prctl(set_seccomp, mode_filter, ctypes.byref(header), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refused the system call filter")
