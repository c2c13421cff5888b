"""File access rules (linux/landlock.h): read some folders, write one, open nothing else."""

import ctypes
import os
import struct
from collections.abc import Sequence

from .confine import Step

# Numbers that all architectures share.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_NO_FLAGS, _VERSION_FLAG, _PATH_BENEATH = 0, 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
# Access rights that each version of the interface knows: 1 has bits 0-12, 2 refer, 3 truncate, 5 ioctl on devices.
_KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_KNOWN_LATER = (1 << 16) - 1

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Return the version of the kernel's interface, 0 where it has none or it is switched off."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))))


def ruleset(readable: Sequence[str], writable: Sequence[str]) -> int:
    """Return a descriptor of rules that leave a process these paths and no others.

    Args:
        readable: files and folders to read and execute.
        writable: folders to do everything in, what is mounted there later included, and devices.

    Raises:
        OSError: where the kernel refuses.
    """
    known = _KNOWN.get(version(), _KNOWN_LATER)
    attributes = ctypes.create_string_buffer(struct.pack("<Q", known), 8)
    rules = int(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(8), ctypes.c_uint32(_NO_FLAGS)))
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock: no ruleset")
    for path, rights in [*((path, _READ) for path in readable), *((path, known) for path in writable)]:
        _allow(rules, path, rights & known)
    return rules


def restricting(rules: int) -> Step:
    """Return the step that puts rules on the calling process, for good. Needs no_new_privs."""
    return (_libc.syscall, (_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(_NO_FLAGS)), "landlock")


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, beneath), 12)
        if _libc.syscall(_ADD_RULE, ruleset, ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0)) != 0:
            raise OSError(ctypes.get_errno(), f"landlock: no rule for {path}")
    finally:
        os.close(beneath)
