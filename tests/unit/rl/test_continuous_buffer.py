"""Which groups a step trains: by random play, with groups that become whole in any order."""

from random import Random

import numpy as np
import pytest

from nemo_cascade.rl.continuous.buffer import Entry, RolloutBuffer
from nemo_cascade.rl.group import Group
from nemo_cascade.types import Task


def task(number):
    return Task(f"t{number}", "math", "math", np.array([number], np.int32), {})


def group(entry):
    return Group(entry.task, [], [])


@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("oversampling", [1.0, 1.25, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_ends_makes_a_step_wait_for_ever_or_train_what_is_too_old(staleness, oversampling, seed):
    rng, wanted, spare = Random(seed), 4, int(4 * (oversampling - 1))
    buffer, drawn, again, trained, times_given_up = RolloutBuffer(wanted, staleness, oversampling), 0, [], [], {}
    for step in range(60):
        for weights in (step, step):  # before the step is taken
            while True:
                while buffer.room(weights) and rng.random() < 0.9:
                    one, was = (again.pop(0), True) if again else (task(drawn), False)
                    drawn += not was
                    buffer.add(Entry(one, drawn, weights, was))
                open_ones = [entry for entry in buffer if entry.group is None]
                if buffer.is_complete() and rng.random() < 0.5:
                    break
                if open_ones:
                    some = rng.choice(open_ones)
                    buffer.whole(some.task.task_id, group(some))
                else:
                    assert buffer.room(weights) or buffer.is_complete()
        taken, given_up = buffer.take()
        assert len(taken) == wanted
        assert all(0 <= step - entry.born <= staleness for entry in taken)
        assert len(given_up) <= spare
        for entry in given_up:
            buffer.remove(entry.task.task_id)
            again.append(entry.task)
            times_given_up[entry.task.task_id] = times_given_up.get(entry.task.task_id, 0) + 1
        trained += [entry.task.task_id for entry in taken]
        while staleness and buffer.room(step) and not again and rng.random() < 0.7:  # while the step trains
            buffer.add(Entry(task(drawn), drawn, step, False))
            drawn += 1
        assert all(entry.born + staleness > step for entry in buffer)
    assert len(trained) == len(set(trained))
    everything = {*trained, *(entry.task.task_id for entry in buffer), *(one.task_id for one in again)}
    assert everything == {f"t{number}" for number in range(drawn)}
    assert bool(times_given_up) <= bool(spare)
    if oversampling <= 1.5:
        assert max(times_given_up.values(), default=0) <= 1


def test_a_step_leaves_its_surplus_behind_but_waits_for_what_was_given_up_before():
    buffer = RolloutBuffer(4, 0, 1.25)
    assert buffer.room(0) == 5
    for number in range(5):
        buffer.add(Entry(task(number), number, 0, number == 4))
    assert buffer.room(0) == 0
    for number in range(4):
        assert not buffer.is_complete()
        buffer.whole(f"t{number}", Group(task(number), [], []))
    assert not buffer.is_complete()  # the fifth was given up before
    buffer.whole("t4", Group(task(4), [], []))
    assert buffer.is_complete()
    taken, given_up = buffer.take()
    assert [entry.serial for entry in taken] == [4, 0, 1, 2]
    assert [entry.serial for entry in given_up] == [3]
    assert buffer.room(0) == 0  # nothing that these weights begin could be trained any more
    buffer.remove("t3")
    assert buffer.room(1) == 5


def test_what_is_due_first_is_taken_first():
    buffer = RolloutBuffer(1, 2, 1.0, step=1)
    buffer.add(Entry(task(0), 0, 0, False))
    buffer.add(Entry(task(1), 1, 1, False))
    buffer.whole("t1", Group(task(1), [], []))
    assert buffer.is_complete()  # t0 may be trained in step 2 yet
    buffer.whole("t0", Group(task(0), [], []))
    assert [entry.serial for entry in buffer.take()[0]] == [0]
