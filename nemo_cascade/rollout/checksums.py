"""A checksum of a weight's bits that can be taken in parts: the parts of a cut tensor add up to that of the whole.

    checksum(W) = sum over r, c of bits(W[r, c]) * row(r) * column(c)   modulo 2^64

bits() reads an element as an integer, so it is exact in any dtype. row() and column() are fixed odd pseudo-random
numbers of the place in the *whole* tensor: values that are right but stand in another row, or belong to another rank's
slice, give another sum. A change of one element always does, for odd factors have inverses modulo 2^64.
"""

from functools import cache

import numpy as np
import torch

# Elements that are widened to 64 bits at a time.
_CHUNK = 1 << 22
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ROW_SALT, _COLUMN_SALT = 0x243F6A8885A308D3, 0x13198A2E03707344  # the digits of pi


def checksum(part: torch.Tensor, first_row: int = 0, first_column: int = 0) -> int:
    """Return what a part of a weight adds to the weight's checksum, 0 <= it < 2^64.

    Args:
        part: [R, C], or [R] or a scalar, which count as columns; on any device, of any dtype.
        first_row: where it begins in the whole tensor.
        first_column: likewise.
    """
    matrix_RC = part.detach().flatten(1) if part.dim() > 1 else part.detach().reshape(-1, 1)
    rows, columns = matrix_RC.shape
    factor_R = _factors(first_row, rows, _ROW_SALT).to(part.device)
    factor_C = _factors(first_column, columns, _COLUMN_SALT).to(part.device)
    total = torch.zeros((), dtype=torch.int64, device=part.device)
    height = max(1, _CHUNK // max(columns, 1))
    for begin in range(0, rows, height):
        block = matrix_RC[begin : begin + height].contiguous()
        bits = block.view(_INTEGERS[block.element_size()]).to(torch.int64)
        total += ((bits * factor_C).sum(1) * factor_R[begin : begin + height]).sum()  # int64 wraps: modulo 2^64
    return int(total.item()) % (1 << 64)


def held_form(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a weight as an engine holds it: of Mamba's decay log(-A) it keeps A alone."""
    return -torch.exp(tensor.float()) if name.endswith(".A_log") else tensor


def _factors(first: int, count: int, salt: int) -> torch.Tensor:
    """Return the factors of the places first .. first + count - 1: SplitMix64, made odd."""
    return torch.from_numpy(_table(salt, 1 << max(16, (first + count - 1).bit_length()))[first : first + count])


@cache
def _table(salt: int, size: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) | np.uint64(1)).view(np.int64)
