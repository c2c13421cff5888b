"""Run a function once per rank in processes of this machine: for tests, conversions and one-machine tools.

The real run places ranks with Ray; this needs nothing but the standard library.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_cascade.errors import ActorDiedError, CascadeError, DeadlineError
from nemo_cascade.processes.ports import free_port
from nemo_cascade.sandbox.inside.foreign import Attempt

# Longest that siblings of a failed rank may go on, so that they can report what they saw of it.
_GRACE_S = 2.0
# What every rank imports, some five CPU seconds: done once, in the server that the ranks are forked from.
_IMPORTED = ["nemo_cascade.training.runtime", "nemo_cascade.models.megatron.build", "nemo_cascade.training.worker"]
# A fork of a process that has looked at a GPU can't use it, and imports may look.
_SIGNS_OF_A_GPU = ("/dev/nvidiactl", "/dev/dxg")


def run_ranks(
    function: Callable[..., Any], world_size: int, *arguments: Any, threads: int = 1, deadline_s: float = 300.0
) -> list[Any]:
    """Call `function(rank, world_size, port, *arguments)` in `world_size` fresh processes and return their results.

    Args:
        function: importable by name (the processes are no forks of this one).
        world_size: number of processes.
        arguments: picklable.
        threads: CPU threads of each process.
        deadline_s: all must be done by then.

    Returns:
        What each rank returned, by rank.

    Raises:
        CascadeError: a rank raised it; re-raised as it was, with the rank's traceback as a note.
        ActorDiedError: a rank raised something else or its process ended without an answer.
        DeadlineError: not all were done in time.
    """
    context, environment = _context(), {**os.environ, "OMP_NUM_THREADS": str(threads)}
    port, end = free_port(), time.monotonic() + deadline_s
    processes, pipes = [], []
    with _threads_of_children(threads):
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank_main,
                args=(theirs, environment, function, rank, world_size, port, arguments),
                daemon=True,
            )
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
    patience = 0.0
    try:
        results = _collect(pipes, processes, end, deadline_s)
        patience = _GRACE_S  # all have answered: let them leave by themselves
        return results
    finally:
        for process in processes:
            process.join(timeout=patience)
            if process.exitcode is None:
                process.kill()
                process.join()


def _context() -> Any:
    """Return what starts processes: forks of a server that has imported what ranks need, or fresh interpreters."""
    if any(Path(sign).exists() for sign in _SIGNS_OF_A_GPU):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _collect(pipes: Sequence[Any], processes: Sequence[Any], end: float, deadline_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, tuple[BaseException, str]] = {}
    open_pipes: dict[Any, int] = dict(zip(pipes, range(len(pipes)), strict=True))
    while open_pipes:
        ready: list[Any] = multiprocessing.connection.wait(list(open_pipes), timeout=max(0.0, end - time.monotonic()))
        if not ready:
            if failures:
                break
            late = sorted(open_pipes.values())
            raise DeadlineError("ranks did not finish in time", value=f"ranks {late}", limit=f"{deadline_s} s")
        for pipe in ready:
            rank = open_pipes.pop(pipe)
            try:
                answered, payload = pipe.recv()
            except EOFError:
                processes[rank].join(_GRACE_S)
                answered, payload = False, (_died(rank, processes[rank].exitcode), "")
            if answered:
                results[rank] = payload
            else:
                failures[rank] = payload
                end = min(end, time.monotonic() + _GRACE_S)
    if failures:
        # The others usually fail because the first one did: prefer an error with a meaning.
        rank = min(failures, key=lambda r: (type(failures[r][0]) in (ActorDiedError, RuntimeError), r))
        error, trace = failures[rank]
        if trace:
            error.add_note(f"rank {rank}:\n{trace}")
        raise error
    return [results[rank] for rank in range(len(pipes))]


def _died(rank: int, exitcode: int | None) -> ActorDiedError:
    return ActorDiedError(f"rank {rank} ended without an answer", value=f"exit code {exitcode}")


def _rank_main(
    pipe: Any,
    environment: Mapping[str, str],
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    arguments: tuple[Any, ...],
) -> None:
    answer: tuple[bool, Any]
    with Attempt(BaseException) as attempt:
        os.environ.update(environment)  # the server's is that of its first use
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
        answer = (True, function(rank, world_size, port, *arguments))
    if (error := attempt.error) is not None:  # handed to the parent, which raises it
        carried = error if isinstance(error, CascadeError) and _pickles(error) else None
        carried = carried or ActorDiedError(f"rank {rank} failed", value=f"{type(error).__name__}: {error}")
        answer = (False, (carried, "".join(traceback.format_exception(error))))
    pipe.send(answer)
    pipe.close()


def _pickles(error: BaseException) -> bool:
    try:
        pickle.dumps(error)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True


@contextlib.contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Set OMP_NUM_THREADS while children start: it must be in place before they import torch."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
