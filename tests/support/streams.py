"""Answers as single ones, for tests that don't care which of them ended together."""

from collections.abc import Generator, Iterator, Sequence

from nemo_cascade.types import Question, Task, Trajectory


def flat(together: Generator[list[Trajectory], None, None]) -> Iterator[Trajectory]:
    """Yield one by one; leaving it leaves the generation."""
    try:
        for ended in together:
            yield from ended
    finally:
        together.close()


def questions(tasks: Sequence[Task], samples: int) -> list[Question]:
    """Return tasks as an engine is asked them."""
    return [Question(task.task_id, task.token_ids, range(samples)) for task in tasks]
