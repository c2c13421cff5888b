"""Distillation by a teacher's log-probs against a float64 reference, a plain loop written from equations 2 to 4."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig, TeacherAdvantageConfig
from nemo_cascade.errors import TrainingError
from nemo_cascade.losses.correction import Documents
from nemo_cascade.losses.policy import policy_loss

PAPER = PolicyLossConfig(aggregation="sequence", correction="icepop", correction_min=0.5, correction_max=2.0)
NEMO_RL = PolicyLossConfig(aggregation="token", correction="icepop", correction_min=0.2, correction_max=5.0)


def documents(seed, count=10):
    """Draw responses behind prompts; engine and teacher differ from the student by enough to reach every bound."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        length = int(rng.integers(3, 12))
        mask = np.zeros(length)
        mask[int(rng.integers(1, 3)) : length] = 1
        student = rng.normal(-1.5, 0.7, length)
        drawn.append(
            SimpleNamespace(
                mask=mask,
                student=student,
                previous=student + rng.normal(0, 0.02, length),
                engine=student + rng.normal(0, 0.8, length),
                teacher=student + rng.normal(0, 1.5, length),
            )
        )
    return drawn


def gradient(docs, config, teacher, student=None):
    """Return loss sum, d loss / d logprob of each document, and the metrics, of one micro-batch."""

    def join(name, poison):
        values = np.concatenate([getattr(d, name) for d in docs])
        return torch.tensor(np.where(np.concatenate([d.mask for d in docs]) > 0, values, poison))

    lengths = torch.tensor([len(d.mask) for d in docs])
    mask_T = torch.tensor(np.concatenate([d.mask for d in docs]))
    extras = {
        "teacher_logprobs": join("teacher", math.nan),
        "behaviour_logprobs": join("engine", -math.inf),
        "sequence_weights": torch.tensor(np.concatenate([d.mask / d.mask.sum() for d in docs])),
    }
    if student == "previous":
        extras["previous_logprobs"] = join("previous", math.inf)
    logprob_T = join("student", -1e30).requires_grad_()
    where = Documents(torch.repeat_interleave(lengths), len(docs), lambda sums: sums)
    output = policy_loss(logprob_T, None, mask_T, where, extras, config, teacher)
    output.loss_sum.backward()
    return output.loss_sum.item(), torch.split(logprob_T.grad, lengths.tolist()), output.metrics


def reference(docs, config, teacher):
    """Return loss sum and d loss / d logprob, document by document, and the sums behind the metrics."""
    loss, slopes, told = 0.0, [], {"tokens": 0, "masked": 0, "clipped": 0, "gap": 0.0}
    for d in docs:
        slope_n = np.zeros(len(d.mask))
        valid = [t for t in range(len(d.mask)) if d.mask[t]]
        for t in valid:
            before = d.previous[t] if teacher.student == "previous" else d.student[t]
            advantage = d.teacher[t] - before
            told["gap"] -= advantage
            if teacher.clip is not None and abs(advantage) > teacher.clip:
                told["clipped"] += 1
                advantage = math.copysign(teacher.clip, advantage)
            ratio = math.exp(before - d.engine[t])
            gated = ratio if config.correction_min <= ratio <= config.correction_max else 0.0
            told["masked"] += gated == 0.0
            told["tokens"] += 1
            share = 1 / len(valid) if config.aggregation == "sequence" else 1.0
            # d/dlogp of -w A rho, rho = exp(logp - before): the ratio is 1 but for what lies between the two passes.
            slope_n[t] = -share * gated * advantage * math.exp(d.student[t] - before)
            loss += slope_n[t]
        slopes.append(slope_n)
    return loss, slopes, told


@pytest.mark.parametrize(
    ("config", "student", "clip", "seed"),
    [*itertools.product((PAPER, NEMO_RL), ("current", "previous"), (None, 1.0), (0, 1))],
)
def test_loss_gradient_and_metrics_equal_the_reference(config, student, clip, seed):
    docs, teacher = documents(seed), TeacherAdvantageConfig(student=student, clip=clip)
    loss, slopes, metrics = gradient(docs, config, teacher, student)
    expected, expected_slopes, told = reference(docs, config, teacher)
    assert loss == pytest.approx(expected, rel=1e-12)
    for slope_n, expected_n in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(slope_n, expected_n, rtol=1e-11, atol=1e-13)
    assert metrics["reverse_kl"].tolist() == pytest.approx([told["gap"], told["tokens"]])
    assert metrics["correction_fraction"].tolist() == [told["masked"], told["tokens"]]
    assert 0 < told["masked"] < told["tokens"]
    assert ("advantage_clip_fraction" in metrics) == (clip is not None)
    if clip is not None:
        assert metrics["advantage_clip_fraction"].tolist() == [told["clipped"], told["tokens"]]
        assert 0 < told["clipped"] < told["tokens"]


@pytest.mark.parametrize("config", [PAPER, NEMO_RL])
def test_any_split_into_micro_batches_gives_the_same_gradient(config):
    docs, teacher = documents(seed=5), TeacherAdvantageConfig()
    _, whole, _ = gradient(docs, config, teacher)
    for cut in (1, 4, 9):
        parts = [gradient(part, config, teacher)[1] for part in (docs[:cut], docs[cut:])]
        for ours, theirs in zip(whole, itertools.chain(*parts), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    docs = documents(seed=7)
    for d in docs:
        d.teacher = d.student
    loss, slopes, metrics = gradient(docs, PAPER, TeacherAdvantageConfig())
    assert loss == 0.0
    assert all(not slope_n.any() for slope_n in slopes)
    assert metrics["reverse_kl"][0] == 0.0


def test_what_its_teacher_would_say_more_often_rises():
    docs = documents(seed=8)
    for d in docs:
        d.engine = d.student
    _, slopes, _ = gradient(docs, PAPER, TeacherAdvantageConfig())
    for d, slope_n in zip(docs, slopes, strict=True):
        trained_n = d.mask > 0
        assert (np.sign(-slope_n.numpy()[trained_n]) == np.sign((d.teacher - d.student)[trained_n])).all()


def test_a_batch_without_the_teachers_word_is_refused():
    with pytest.raises(TrainingError, match="needs `teacher_logprobs`"):
        policy_loss(
            torch.zeros(2, requires_grad=True),
            None,
            torch.ones(2),
            Documents(torch.zeros(2, dtype=torch.long), 1, lambda sums: sums),
            {"advantages": torch.zeros(2)},
            PolicyLossConfig(),
            TeacherAdvantageConfig(),
        )
