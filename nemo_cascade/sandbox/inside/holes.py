"""Fill the holes that start-up left in the zygote's memory.

A child that allocates in holes writes to a page here and a page there, and the kernel copies each. With the holes
filled it allocates in a row, in few and fresh pages. What fills them was theirs before: the zygote hardly grows.
"""

from __future__ import annotations

import ctypes

_POOL_BYTES, _POOL_HEADER_BYTES = 1 << 14, 48  # of CPython's allocator for small objects (Objects/obmalloc.c)
_SMALL_BYTES, _BYTES_OVERHEAD = 512, 33
_MOST_BLOCKS = 20_000
_BIG_BYTES = 120_000  # the C library maps larger blocks by themselves, and has no such hole
_LARGE_SIZES = (*(1 << exponent for exponent in range(16, 10, -1)), *range(1024, 15, -16))

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_size_t
_filling: list[object] = []


def fill_holes() -> None:
    """Fill them; for the zygote, when all else is done."""
    for size in range(48, _SMALL_BYTES + 1, 16):
        _fill_pools(size - _BYTES_OVERHEAD)
    top = _libc.malloc(_BIG_BYTES)
    _libc.free(ctypes.c_size_t(top))
    for size in _LARGE_SIZES:
        for _ in range(_MOST_BLOCKS):
            block = _libc.malloc(ctypes.c_size_t(size))
            if block >= top:
                _libc.free(ctypes.c_size_t(block))
                break


def _fill_pools(length: int) -> None:
    """Allocate bytes of one length until a pool is begun."""
    for _ in range(_MOST_BLOCKS):
        block = bytes(length)
        _filling.append(block)
        if id(block) % _POOL_BYTES == _POOL_HEADER_BYTES:
            return
