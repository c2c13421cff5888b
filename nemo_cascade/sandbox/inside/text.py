"""Put the code of the interpreter and its libraries on huge pages, which forks share at a stroke.

A fork inherits no page table entries of a private file mapping: each child faults its code in again, some fifty times
in a short run. Entries of anonymous memory are inherited, and those of one huge page are copied, and dropped at the
end, as one. Code and constants never change, so a copy can take their place while they are in use.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE_ANONYMOUS, _MAY_MOVE_TO = 0x22, 3
_HUGE, _COLLAPSE = 14, 25  # advice; the second fails where the kernel can't give huge pages
_HUGE_BYTES = 2 << 20
_LEAST_BYTES = 256 << 10  # a mapping with pages of its own costs each fork as much as a few faults

_libc = ctypes.CDLL(None)
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_size_t
_FAILED = ctypes.c_size_t(-1).value


class _Piece(NamedTuple):
    start: int
    size: int
    protection: int


def _pieces() -> list[_Piece]:
    """Return the large mappings of code in the interpreter and its libraries, and of the constants behind each."""
    found, code_of = [], ""
    with open("/proc/self/maps") as file:
        for line in file:
            span, permissions, _, _, _, *paths = line.split()
            path = paths[0] if paths else ""
            is_code = permissions == "r-xp" and path.startswith("/")
            start, end = (int(part, 16) for part in span.split("-"))
            if end - start >= _LEAST_BYTES and (is_code or (permissions == "r--p" and path and path == code_of)):
                found.append(_Piece(start, end - start, _READ | (_EXECUTE if is_code else 0)))
            code_of = path if is_code else ""
    return found


def onto_huge_pages() -> bool:
    """Move the code; for the zygote. Where the kernel gives no huge pages all stays as it is, and False comes back."""
    pieces = _pieces()
    total = -(-sum(piece.size for piece in pieces) // _HUGE_BYTES) * _HUGE_BYTES
    mapped_bytes = total + _HUGE_BYTES
    region = _libc.mmap(None, ctypes.c_size_t(mapped_bytes), _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    if region == _FAILED:
        return False
    first = -(-region // _HUGE_BYTES) * _HUGE_BYTES
    copies, at = [], first
    for piece in pieces:
        copies.append((at, piece))
        at += piece.size
    _libc.madvise(ctypes.c_size_t(first), ctypes.c_size_t(total), _HUGE)
    for copy, piece in copies:
        ctypes.memmove(copy, piece.start, piece.size)
    ready = _libc.madvise(ctypes.c_size_t(first), ctypes.c_size_t(total), _COLLAPSE) == 0 and all(
        _libc.mprotect(ctypes.c_size_t(copy), ctypes.c_size_t(piece.size), piece.protection) == 0
        for copy, piece in copies
    )
    if ready:
        for copy, piece in copies:
            size, target = ctypes.c_size_t(piece.size), ctypes.c_size_t(piece.start)
            _libc.mremap(ctypes.c_size_t(copy), size, size, _MAY_MOVE_TO, target)
    _libc.munmap(ctypes.c_size_t(region), ctypes.c_size_t(mapped_bytes))
    return ready
