"""Best@k of a suite: have reproduction tests written, validate the patches, and pick one of each prompt.

The steps are those of `evaluation/picking.py`'s order. Nothing here sees a hidden test or a score.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nemo_cascade.config.pick import PickConfig
from nemo_cascade.config.schema import SuiteConfig
from nemo_cascade.config.verifiers.base import Settings
from nemo_cascade.data.chat.encode import encode_segments, response_text
from nemo_cascade.data.chat.rendered import render_prompt
from nemo_cascade.data.prompts.swe_rows import reproduction_messages
from nemo_cascade.evaluation.picking import Candidate, candidate, picked
from nemo_cascade.rewards.code.block import last_program
from nemo_cascade.rewards.response import split_response
from nemo_cascade.rewards.swe.edits import EditError, solution_part
from nemo_cascade.rewards.swe.validation import patched_files
from nemo_cascade.rl.ask import Answerers, check_errors, episodes_of, play
from nemo_cascade.rl.episodes import Episode, turn_seed
from nemo_cascade.rl.group import Group
from nemo_cascade.types import Place, Sample, Task, Trajectory, Verdict

_WRITING = 1_000_003  # no turn of a suite's answers has this number, so tests are drawn by a seed of their own


@dataclass(frozen=True, slots=True)
class Pick:
    """Which sample of a prompt is handed in.

    Attributes:
        sample: its number; 0 where no patch fits.
        tests: different reproduction tests that were written for the prompt.
    """

    sample: int
    tests: int


def pick_samples(
    groups: Sequence[Group], suite: SuiteConfig, pick: PickConfig, by: Answerers, seed: int, of: str
) -> dict[str, Pick]:
    """Pick one sample of each prompt.

    Args:
        groups: judged samples of each prompt; their verdicts aren't looked at.
        suite: whose prompts they are.
        pick: its rules.
        by: who answers and validates.
        seed: of the suite's asking.
        of: what the prompts belong to, for people.

    Returns:
        Task id -> what is picked.

    Raises:
        RewardError: more validations are errors than reward.max_error_fraction allows.
    """
    by.judges.self_test([pick.regression.kind], pick.regression.options)
    by.judges.self_test([pick.reproduction.kind], pick.reproduction.options)
    written = _written_tests([group.task for group in groups], suite, pick, by, seed)
    fitting = {group.task.task_id: _fitting(group, by) for group in groups}
    asked: dict[Place, Sample] = {}
    for group in groups:
        for one in _one_of_each(fitting[group.task.task_id]):
            answer, tests = group.answers[one.sample], written.get(group.task.task_id, ())
            for task in _validations(group.task, pick, tests):
                asked[task.task_id, one.sample] = task, replace(answer, task_id=task.task_id)
    by.judges.submit(list(asked.values()))
    verdicts = dict(by.judges.drain())
    checked = [Group(task, [answer], [verdicts[place]]) for place, (task, answer) in asked.items()]
    check_errors(checked, by.config.reward.max_error_fraction, f"validating {of}")
    chosen = {}
    for group in groups:
        name = group.task.task_id
        tests = written.get(name, ())
        known = [_validated(one, fitting[name], name, tests, verdicts) for one in fitting[name]]
        chosen[name] = Pick(picked(known).sample if known else 0, len(tests))
    return chosen


def _written_tests(
    tasks: Sequence[Task], suite: SuiteConfig, pick: PickConfig, by: Answerers, seed: int
) -> Mapping[str, tuple[str, ...]]:
    """Have the model write reproduction tests; return task id -> the different ones, in the order of their samples.

    A prompt that leaves a test no room has none.
    """
    room = by.config.rollout.max_model_len - pick.sampling.max_tokens
    asking = [task for task in (_test_task(task, suite, by) for task in tasks) if task is not None]
    asking = [task for task in asking if len(task.token_ids) <= room]
    if not pick.reproduction_tests or not asking:
        return {}
    said: dict[str, dict[int, str]] = {}

    def note(over: Sequence[Episode]) -> None:
        for episode in over:
            assert episode.trajectory is not None, "what is over was answered"
            if (test := _test_of(episode.trajectory, by)) is not None:
                said.setdefault(episode.task.task_id, {})[episode.trajectory.sample] = test

    with episodes_of(asking, pick.reproduction_tests, pick.sampling, by) as episodes:
        play(episodes, by.engines, pick.sampling, turn_seed(seed, _WRITING), note, by.config.environments.turns)
    return {name: tuple(dict.fromkeys(tests[i] for i in sorted(tests))) for name, tests in said.items()}


def _test_task(task: Task, suite: SuiteConfig, by: Answerers) -> Task | None:
    """Return the question for a test; None where the row has no issue, or can't be shown by the template."""
    problem, files = task.record.get("problem"), task.record.get("files")
    if not isinstance(problem, str) or not isinstance(files, Mapping):
        return None
    row = {"messages": reproduction_messages(problem, files)}
    segments, problems = render_prompt(by.tokenizer, row, suite.mode)
    if problems:
        return None
    ids = encode_segments(by.tokenizer, [segments])[0][0]
    return Task(task.task_id, task.domain, task.verifier, ids, {**row, "mode": suite.mode})


def _test_of(answer: Trajectory, by: Answerers) -> str | None:
    text = split_response(response_text(by.tokenizer, answer.response_ids, answer.context_ids)).answer
    return None if text is None else last_program(solution_part(text), "python")


def _fitting(group: Group, by: Answerers) -> list[Candidate]:
    """Return the patches of a group that fit and change something, not validated yet."""
    files, found = group.task.record["files"], []
    for sample, answer in enumerate(group.answers):
        try:
            text = response_text(by.tokenizer, answer.response_ids, answer.context_ids)
            found.append(candidate(sample, files, patched_files(files, text)))
        except EditError:
            continue
    return [one for one in found if one is not None]


def _one_of_each(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the first of those that say the same: they are validated once."""
    return list({one.says: one for one in reversed(candidates)}.values())


def _validated(
    one: Candidate, among: Sequence[Candidate], name: str, tests: Sequence[str], verdicts: Mapping[Place, Verdict]
) -> Candidate:
    """Return a candidate with what the validation of its like came to; an error counts as a failure of the patch."""
    like = next(other.sample for other in among if other.says == one.says)

    def score(task_id: str) -> float:
        return verdicts[task_id, like].score or 0.0

    reproduced = sum(score(_test_id(name, test)) >= 1.0 for test in tests)
    return replace(one, regression=score(_regression_id(name)), reproduced=reproduced)


def _validations(task: Task, pick: PickConfig, tests: Sequence[str]) -> Iterator[Task]:
    """Yield what a patch for a task is held to: the repository's own tests, and each reproduction test."""
    yield _judged_by(task, _regression_id(task.task_id), pick.regression, {})
    for test in tests:
        yield _judged_by(task, _test_id(task.task_id, test), pick.reproduction, {"reproduction_test": test})


def _judged_by(task: Task, name: str, settings: Settings, more: Mapping[str, Any]) -> Task:
    record = {**task.record, **more}
    return replace(task, task_id=name, verifier=settings.kind, settings=settings.options, record=record)


def _regression_id(name: str) -> str:
    return f"{name}/regression"


def _test_id(name: str, test: str) -> str:
    return f"{name}/reproduction/{hashlib.blake2b(test.encode('utf-8', 'replace'), digest_size=8).hexdigest()}"
