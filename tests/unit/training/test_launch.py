import multiprocessing
import os
import time

import pytest

from nemo_cascade.errors import ActorDiedError, DeadlineError, TrainingError
from nemo_cascade.processes.ports import free_port
from nemo_cascade.training.launch import run_ranks


def _square(rank, world_size, port, offset):
    return rank**2 + offset, world_size, os.environ["OMP_NUM_THREADS"]


def _refuse(rank, world_size, port):
    if rank == 1:
        raise TrainingError("no batch", value=3, limit=2)
    if rank == 0:
        raise RuntimeError("connection closed by peer")


def _exit(rank, world_size, port):
    if rank == 1:
        os._exit(7)


def _hang(rank, world_size, port):
    time.sleep(60)


def test_results_come_back_by_rank_and_threads_are_set():
    assert run_ranks(_square, 2, 10, threads=3) == [(10, 2, "3"), (11, 2, "3")]


def test_a_typed_error_is_raised_as_it_was_although_another_rank_failed_because_of_it():
    with pytest.raises(TrainingError, match=r"no batch; got: 3; allowed: 2") as caught:
        run_ranks(_refuse, 2)
    assert "rank 1" in caught.value.__notes__[0]


def test_a_process_that_dies_is_named_with_its_exit_code():
    with pytest.raises(ActorDiedError, match="rank 1 ended without an answer; got: exit code 7"):
        run_ranks(_exit, 2)


def test_a_hung_rank_meets_the_deadline_and_is_removed():
    with pytest.raises(DeadlineError, match=r"ranks \[0\]; allowed: 2"):
        run_ranks(_hang, 1, deadline_s=2)
    assert multiprocessing.active_children() == []


def test_ports_are_handed_out_once():
    assert len({free_port() for _ in range(50)}) == 50
