"""Framing of what a pool and its worker processes say to each other over a socket.

Tasks travel pickled (both ends are ours), verdicts as JSON (a worker has read hostile text, so its word is parsed,
never executed).
"""

import json
import pickle
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nemo_cascade.rewards.response import Response

_HEADER = struct.Struct("<QI")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answers to one task. `last` means that the worker retires after it."""

    task_id: int
    score: float | None
    error: str | None
    detail: str
    seconds: float
    last: bool


def pack_task(task_id: int, verifier: str, record: Mapping[str, Any], response: Response) -> bytes:
    """Return the frame of a task."""
    body = pickle.dumps((verifier, dict(record), response), protocol=pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(task_id, len(body)) + body


def unpack_task(body: bytes) -> tuple[str, dict[str, Any], Response]:
    """Return (verifier, record, response) of a task frame's body."""
    verifier, record, response = pickle.loads(body)
    return verifier, record, response


def pack_reply(reply: Reply) -> bytes:
    """Return the frame of a reply."""
    fields = [reply.score, reply.error, reply.detail, reply.seconds, reply.last]
    body = json.dumps(fields, allow_nan=False).encode("ascii")
    return _HEADER.pack(reply.task_id, len(body)) + body


def take_replies(buffer: bytearray) -> Iterator[Reply]:
    """Yield the complete replies at the head of a buffer and remove them from it."""
    while len(buffer) >= _HEADER.size:
        task_id, size = _HEADER.unpack_from(buffer)
        end = _HEADER.size + size
        if len(buffer) < end:
            return
        score, error, detail, seconds, last = json.loads(bytes(buffer[_HEADER.size : end]))
        del buffer[:end]
        yield Reply(task_id, score, error, detail, seconds, last)


def read_task(channel: socket.socket) -> tuple[int, bytes] | None:
    """Read one task frame, blocking; None at end of stream."""
    header = _read_exactly(channel, _HEADER.size)
    if header is None:
        return None
    task_id, size = _HEADER.unpack(header)
    body = _read_exactly(channel, size)
    return None if body is None else (task_id, body)


def _read_exactly(channel: socket.socket, size: int) -> bytes | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    filled = 0
    while filled < size:
        count = channel.recv_into(view[filled:])
        if count == 0:
            return None
        filled += count
    return bytes(buffer)
