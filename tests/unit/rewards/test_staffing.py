from collections import deque

import pytest

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.processes import Task, Worker
from nemo_cascade.rewards.pool.scaling import Staffing

STAFFING = Staffing(RewardConfig(workers=2, spare_workers=2, linger_share=0.1))
LIKELY_AT, LINGERS_AT = 100.2, 101.0


def worker(*, busy=False, started=True, retiring=False, ended=False):
    task = Task(0, "k", "probe", b"", "", deque(), submitted=100.0, deadline_s=10.0, started=100.0) if busy else None
    return Worker(channel=None, generation=0, pidfd=9 if started else -1, task=task, retiring=retiring, ended=ended)


@pytest.mark.parametrize(
    ("staff", "queued", "now", "forks"),
    [
        ([], 1, 100.0, 1),
        ([], 9, 100.0, 2),
        ([worker(started=False)], 1, 100.0, 0),  # one is on its way for the only task
        ([worker(busy=True)] * 2, 9, 100.1, 0),
        ([worker(busy=True)] * 2, 9, LIKELY_AT, 1),  # ahead of what is likely to linger, never more than one
        ([worker(busy=True)] * 2, 0, LIKELY_AT, 0),
        ([worker(busy=True), worker(busy=True), worker(started=False)], 9, LIKELY_AT, 0),
        ([worker(busy=True), worker(busy=True), worker()], 9, LIKELY_AT, 0),
        ([worker(busy=True), worker(busy=True, ended=True)], 9, 100.0, 1),  # killed, not yet reported by the nursery
        ([worker(busy=True)] * 2, 9, LINGERS_AT, 2),
        ([worker(busy=True)] * 2, 1, LINGERS_AT, 1),
        ([worker(busy=True)] * 2, 0, LINGERS_AT, 0),
        ([worker(busy=True)] * 3, 9, LINGERS_AT, 1),
        ([worker(busy=True)] * 4, 9, LINGERS_AT, 0),  # never more than workers + spare_workers
        ([worker(busy=True, retiring=True), worker(retiring=True)], 9, 100.0, 1),  # the second is only ending
    ],
)
def test_forks_fill_the_regular_places_and_spares_stand_beside_what_lingers(staff, queued, now, forks):
    assert STAFFING.to_fork(staff, queued, now) == forks


def test_without_spares_a_lingering_verdict_keeps_its_place():
    strict = Staffing(RewardConfig(workers=2, spare_workers=0))
    staff = [worker(busy=True)] * 2
    assert strict.to_fork(staff, 9, now=105.0) == 0
    assert strict.next_change(staff, now=100.0) is None


def test_tasks_are_given_out_for_places_that_no_verdict_holds():
    busy = worker(busy=True)
    assert STAFFING.free_places([worker()] * 3, 100.0) == 2
    assert STAFFING.free_places([busy, worker()], LIKELY_AT) == 1
    assert STAFFING.free_places([busy, busy, worker()], LIKELY_AT) == 0  # the third stands by
    assert STAFFING.free_places([busy, busy, worker()], LINGERS_AT) == 2
    assert STAFFING.free_places([busy, worker(busy=True, ended=True), worker()], 100.0) == 1


def test_idle_workers_retire_where_more_than_one_stands_by():
    idle, busy = [worker(), worker(), worker(), worker()], worker(busy=True)
    assert STAFFING.to_retire(idle[:3], 100.0) == []
    assert STAFFING.to_retire(idle, 100.0) == idle[:1]
    assert STAFFING.to_retire([*idle[:3], busy], LINGERS_AT) == []
    assert STAFFING.to_retire([*idle[:3], busy], 100.0) == idle[:1]
    assert STAFFING.to_retire([*idle, worker(retiring=True)], 100.0) == idle[:1]
    assert STAFFING.to_retire([busy] * 4, 100.0) == []
    assert Staffing(RewardConfig(workers=2, spare_workers=0)).to_retire(idle[:3], 100.0) == idle[:1]


def test_the_pool_wakes_when_the_next_verdict_is_likely_to_linger_and_when_it_does():
    assert STAFFING.next_change([worker(), worker(busy=True)], 100.0) == pytest.approx(LIKELY_AT)
    assert STAFFING.next_change([worker(), worker(busy=True)], LIKELY_AT) == LINGERS_AT
    assert STAFFING.next_change([worker(busy=True)], LINGERS_AT) is None
    assert STAFFING.next_change([worker(busy=True)] * 4, 100.0) is None
    assert STAFFING.next_change([*[worker(busy=True)] * 3, worker()], LIKELY_AT) == LINGERS_AT
