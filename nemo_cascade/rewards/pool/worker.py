"""What runs inside one verifier process: read a task, judge it, reply, until the pool closes the socket."""

import ctypes
import math
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from typing import NoReturn

from nemo_cascade.rewards.pool.wire import Reply, pack_reply, read_task, unpack_task
from nemo_cascade.rewards.verifier import Verifier, VerifierError
from nemo_cascade.sandbox.inside.foreign import Attempt

_PR_SET_PDEATHSIG = 1
_MAX_DETAIL = 2000
_RECYCLE_AFTER = 2000  # verdicts after which a process is replaced, so that library caches can't grow for ever


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the call above took effect
        os._exit(1)


def serve(
    channel: socket.socket,
    verifiers: Mapping[str, Verifier],
    *,
    parent: int,
    memory_mib: int,
) -> NoReturn:
    """Judge tasks until the pool closes the channel or it is time to retire. Never returns.

    The process leads its own process group, so that what a verifier starts can be killed with it.
    """
    die_with_parent(parent)
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    served = 0
    while (frame := read_task(channel)) is not None:
        served += 1
        reply = judge(frame[0], frame[1], verifiers)
        retire = served >= _RECYCLE_AFTER or reply.error == "memory"
        if retire:
            reply = Reply(reply.task_id, reply.score, reply.error, reply.detail, reply.seconds, last=True)
        channel.sendall(pack_reply(reply))
        if retire:
            break
    sys.stderr.flush()
    os._exit(0)


def judge(task_id: int, body: bytes, verifiers: Mapping[str, Verifier]) -> Reply:
    """Run one verification; whatever goes wrong in it becomes an error reply, never a score."""
    start = time.perf_counter()
    score: float | None = None
    error: str | None = None
    random.seed(0)  # a verifier that draws random numbers draws the same ones for the same sample
    with Attempt(Exception, SystemExit) as attempt:
        name, record, response = unpack_task(body)
        verdict = verifiers[name].verify(record, response)
        score, detail = float(verdict), getattr(verdict, "detail", "")
        if not math.isfinite(score):
            score, error, detail = None, "exception", f"the verifier returned {float(verdict)}"
    problem = attempt.error
    if isinstance(problem, VerifierError):
        error, detail = problem.kind, problem.detail
    elif isinstance(problem, MemoryError):
        error, detail = "memory", "the verification outgrew the process's memory limit"
    elif problem is not None:
        error, detail = "exception", _describe(problem)
    return Reply(task_id, score, error, detail[:_MAX_DETAIL], time.perf_counter() - start, last=False)


def _describe(problem: BaseException) -> str:
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {str(problem)[:500]} (at {os.path.basename(frame.filename)}:{frame.lineno})"
