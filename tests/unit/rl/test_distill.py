"""A batch of distillation with scripted policy, engines and teachers: who scores what, and what a line says of it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import RolloutError, TrainingError
from nemo_cascade.losses.units import count_units
from nemo_cascade.report.samples import read_rollouts
from nemo_cascade.rl.distill import Response, distill_line, distill_update, sample
from nemo_cascade.rl.rollout_log import write_responses
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.training.setup import StepResult
from nemo_cascade.types import FinishReason, Task, first_turn

SAID = 3
BEHAVIOUR = -1.0
GAPS = {"math": 0.25, "chat": -0.5, "code": 1.0}
"""How much less likely than the engine a domain's teacher holds each token."""


def config_with(*overrides):
    return compose(["cascade=nano_distill", *overrides])[0]


class Policy:
    def __init__(self, gap=0.0):
        self.gap, self.trained = gap, []

    def logprobs(self, source, step, which="policy"):
        return [
            [
                np.concatenate([source.documents[i].extras["behaviour_logprobs"] + self.gap for i in members])
                for members in source.plan[0]
            ]
        ]

    def train_step(self, source, step):
        batches = source.micro_batches(step, 0, 1)
        self.trained.append(source)
        units = sum(count_units(batch, "sequence") for batch in batches)
        metrics = {"reverse_kl": 0.1, "correction_fraction": 0.25}
        return StepResult(step, 0.5, 1.0, 1e-4, units, skipped=False, metrics=metrics)


class Teachers:
    """Says of a document, whose first token names its domain, what GAPS says, and remembers who was asked of what."""

    parallel = ParallelConfig(data_parallel_size=2)

    def __init__(self, broken=()):
        self.asked, self.broken = [], broken

    def logprobs(self, folder, source):
        self.asked.append((folder, [int(d.input_ids[0]) for d in source.documents]))
        rows = []
        for plan in source.plan:
            packs = [[source.documents[i] for i in members] for members in plan]
            rows.append([np.concatenate([self._score(d) for d in pack] or [np.zeros(2)]) for pack in packs])
        return [[row.astype(np.float32) for row in rank] for rank in rows]

    def _score(self, document):
        domain = list(GAPS)[int(document.input_ids[0])]
        return np.full(document.num_tokens, math.nan if domain in self.broken else BEHAVIOUR - GAPS[domain])


def response(domain, number=0, failed="", reason=FinishReason.STOP, said=SAID):
    first = list(GAPS).index(domain)
    task = Task(f"{domain}/{number}", domain, "", np.array([first, 9], np.int32), {})
    tokens = np.full(said, 7, np.int32), np.full(said, BEHAVIOUR, np.float32)
    return Response(task, first_turn(task.task_id, 0, task.token_ids, *tokens, reason, 1), failed)


def update(responses, taught_by, *overrides, policy=None, teachers=None):
    config = config_with(*overrides)
    policy, teachers = policy or Policy(), teachers or Teachers()
    stage = config.stages["mopd"]
    return distill_update(policy, teachers, taught_by, responses, stage, config, 4, PhaseTimer()), policy, teachers


RESPONSES = [response("math"), response("chat"), response("math", 1), response("code", said=5)]
TAUGHT = {"math": "/sft", "chat": "/rl", "code": "/sft"}


def test_every_response_is_scored_by_its_domains_teacher_and_by_nobody_else():
    distilled, policy, teachers = update(RESPONSES, TAUGHT)
    # One call a teacher, though it teaches two domains.
    assert teachers.asked == [("/sft", [0, 0, 2]), ("/rl", [1])]
    assert set(distilled.teacher_seconds) == {"math+code", "chat"}
    (source,) = policy.trained
    for one, document in zip(RESPONSES, source.documents, strict=True):
        trained = document.loss_mask > 0
        assert trained.sum() == one.answer.num_sampled
        expected = BEHAVIOUR - GAPS[one.task.domain]
        assert document.extras["teacher_logprobs"][trained] == pytest.approx(expected)
        assert document.extras["sequence_weights"][trained] == pytest.approx(1 / one.answer.num_sampled)
    assert distilled.result.tokens == len(RESPONSES)


def test_a_line_has_reverse_kl_by_domain_the_gates_share_and_each_teachers_seconds():
    responses = [
        *RESPONSES,
        response("chat", 2, failed="timeout: slow"),
        response("math", 3, reason=FinishReason.LENGTH),
    ]
    distilled, _, _ = update(responses, TAUGHT)
    line = distill_line(responses, distilled)
    assert line["reverse_kl_by_domain"] == pytest.approx(GAPS)
    assert line["truncation_rate_by_domain"]["math"] == pytest.approx(1 / 3)
    assert line["responses_by_domain"] == {"math": 3, "chat": 2, "code": 1}
    assert (line["responses"], line["responses_failed"], line["gate_share"]) == (6, 1, 0.75)
    assert line["teacher_seconds"].keys() == {"math+code", "chat"}
    assert distilled.result.tokens == 5  # what failed is in no mean


def test_previous_log_probs_and_the_outlier_filter_are_a_pass_of_their_own():
    distilled, policy, _ = update(RESPONSES, TAUGHT, "stages.mopd.advantage.student=previous", policy=Policy(0.1))
    assert distilled.filtered == 0
    for document in policy.trained[0].documents:
        trained = document.loss_mask > 0
        assert document.extras["previous_logprobs"][trained] == pytest.approx(BEHAVIOUR + 0.1)
    policy = Policy(math.log(3.0))
    distilled, _, _ = update(RESPONSES, TAUGHT, "stages.mopd.loss.sequence_error_max=2", policy=policy)
    assert (distilled.result, distilled.filtered, policy.trained) == (None, 4, [])
    assert optimizer_line([])["loss"] is None
    assert distill_line(RESPONSES, distilled)["updates_empty"] == 1


def test_a_broken_teacher_stops_the_run_by_name():
    with pytest.raises(TrainingError, match="a teacher's log-probabilities aren't finite; got: /rl"):
        update(RESPONSES, TAUGHT, teachers=Teachers(broken=("chat",)))


def test_what_was_said_is_kept_to_look_at(tmp_path):
    distilled, _, _ = update(RESPONSES, TAUGHT)
    tokenizer = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
    write_responses(tmp_path, 1, RESPONSES, distilled, tokenizer, most=2)
    lines = read_rollouts(tmp_path / "rollouts" / "step_000001.jsonl.gz")
    assert [(line["domain"], line["reward"], line["advantage"]) for line in lines] == [
        ("math", None, pytest.approx(-0.25)),
        ("chat", None, pytest.approx(0.5)),
    ]


def test_too_many_failed_responses_stop_the_run():
    class Engines:
        def generate(self, questions, sampling, seed):
            reasons = [FinishReason.ABORT, FinishReason.STOP]
            yield [
                first_turn(
                    q.task_id, s, q.token_ids, np.array([7], np.int32), np.array([-1.0], np.float32), reasons[i], 1
                )
                for i, q in enumerate(questions)
                for s in q.samples
            ]

    config = config_with()
    tasks = [RESPONSES[0].task, RESPONSES[1].task]
    hosts = SimpleNamespace(forget=lambda places: None)
    asked = (tasks, config.stages["mopd"], 0, Engines(), hosts)
    with pytest.raises(RolloutError, match=r"too many responses failed; got: 1 of 2 \(aborted rollout\)"):
        sample(*asked, config, PhaseTimer())
    lenient = config_with("reward.max_error_fraction=0.5")
    responses = sample(*asked, lenient, PhaseTimer())
    assert [(r.task.domain, r.failed) for r in responses] == [("math", "aborted rollout"), ("chat", "")]
