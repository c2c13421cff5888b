"""Map a function over items with a pool of processes, in the order they finish."""

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from nemo_cascade.errors import DataError
from nemo_cascade.processes.supervise import Driver, tie_to

A = TypeVar("A")
B = TypeVar("B")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def map_processes(function: Callable[[A], B], items: Sequence[A], workers: int) -> Iterator[B]:
    """Yield the function's results as they come; nothing may depend on their order.

    The items are taken in an order of this process's own: where each is work that is skipped once it's done, machines
    that see the same folder share it by calling this at the same time.

    Args:
        function: a module's function, so that it can travel.
        items: what it is called with, one each.
        workers: most processes. With one, or one item, all is done here.

    Raises:
        DataError: a process was killed from outside. What the others finished stays done.
    """
    items = random.Random().sample(items, len(items))
    processes = min(workers, len(items))
    if processes <= 1:
        yield from map(function, items)
        return
    # Spawned, not forked: the caller may hold threads, locks and a tokenizer's thread pool.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=tie_to, initargs=(Driver.here(),)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process was killed",
                value=f"one of {processes}",
                mend="look for the kernel's out-of-memory killer, lower data.workers and start again: "
                "what was finished is kept",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
