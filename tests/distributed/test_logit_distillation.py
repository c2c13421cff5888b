"""Logits of a teacher learned on real Megatron ranks: the same loss in any layout and split, nothing from oneself."""

import numpy as np
import pytest
import torch

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.config.stages.policy_loss import LogitTeacherConfig
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.layout import make_document
from nemo_cascade.losses.distillation import LogitDistillation
from nemo_cascade.processes.ports import free_port
from nemo_cascade.training.launch import run_ranks
from nemo_cascade.training.worker import TrainerWorker
from tests.support.tiny_policy import VOCAB, place, policy_setup, write_tiny_folder

pytestmark = [pytest.mark.distributed, pytest.mark.long, pytest.mark.timeout(600)]

STUDENT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48}
TEACHER = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 64}
TEMPERATURE, MIXED = 1.5, 0.2


def documents(seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for length in (9, 17, 5, 12, 8):
        trained = np.zeros(length, np.uint8)
        trained[3:] = 1
        made.append(make_document(rng.integers(0, VOCAB, length).astype(np.int32), trained))
    return made


def train(worker, student, teacher, steps=1, size=24, **layout):
    mixed = {} if student == teacher else {"temperature": TEMPERATURE, "cross_entropy_weight": MIXED}
    objective = LogitDistillation(LogitTeacherConfig(model="named", **mixed), teacher)
    worker.setup(policy_setup(student, objective=objective, optimizer=OptimizerConfig(lr=3e-3), **layout))
    source = balanced_micro_batches(documents(), size, 1)
    return [worker.train_step(source, step) for step in range(steps)]


def work(rank, world_size, port, alone_port, folders):
    """Step once in every layout of two ranks; on the first rank alone in others, and several times."""
    student, teacher, again = (folders[name] for name in ("student", "teacher", "teacher_again"))
    worker = TrainerWorker(**place(rank, world_size, port))
    told = {
        "tp2": train(worker, student, teacher, tp=2, sp=True)[0],
        "pp2": train(worker, student, teacher, pp=2)[0],
        "cp2": train(worker, student, teacher, cp=2)[0],
        "vpp2": train(worker, again, teacher, pp=2, vpp=2)[0],
    }
    worker.close()
    if rank > 0:
        return told
    worker = TrainerWorker(**place(0, 1, alone_port))
    told["one"] = train(worker, student, teacher)[0]
    told["again"] = train(worker, again, teacher)[0]
    told["whole"] = train(worker, student, teacher, size=64)[0]
    told["itself"] = train(worker, teacher, teacher)[0]
    told["learned"] = train(worker, student, teacher, steps=12)
    worker.close()
    return told


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("taught")
    sizes = {"student": STUDENT, "teacher": TEACHER, "teacher_again": TEACHER}
    return {name: write_tiny_folder(root / name, seed, **size) for seed, (name, size) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def told(folders):
    return run_ranks(work, 2, free_port(), folders, deadline_s=300.0)[0]


def test_the_loss_is_that_of_the_logits_of_transformers_in_float64(told, folders):
    from transformers import AutoModelForCausalLM

    models = [AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float64) for name in folders]
    total = count = kl_sum = 0.0
    for document in documents():
        ids, on = torch.from_numpy(document.input_ids).long()[None], torch.from_numpy(document.loss_mask) > 0
        with torch.no_grad():
            q, p = (model(ids).logits[0] for model in models[:2])
        labels = torch.roll(ids[0], -1)
        log_q, log_p = (torch.log_softmax(x / TEMPERATURE, -1) for x in (q, p))
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)[on]
        nll = -torch.log_softmax(q, -1).gather(1, labels[:, None])[on, 0]
        total += float(TEMPERATURE**2 * kl.sum() + MIXED * nll.sum())
        kl_sum, count = kl_sum + float(kl.sum()), count + int(on.sum())
    assert told["one"].loss == pytest.approx(total / count, rel=1e-5)
    assert told["one"].metrics["forward_kl"] == pytest.approx(kl_sum / count, rel=1e-5)


@pytest.mark.parametrize("layout", ["tp2", "pp2", "cp2", "whole"])
def test_any_layout_and_split_gives_the_same_step(told, layout):
    one, other = told["one"], told[layout]
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


def test_interleaved_stages_give_the_same_step(told):
    assert told["vpp2"].loss == pytest.approx(told["again"].loss, rel=1e-5)
    assert told["vpp2"].grad_norm == pytest.approx(told["again"].grad_norm, rel=1e-4)


def test_a_student_that_is_its_teacher_learns_nothing(told):
    assert abs(told["itself"].loss) < 1e-7
    assert told["itself"].grad_norm < 1e-6


def test_steps_bring_the_student_nearer_to_its_teacher(told):
    divergence = [step.metrics["forward_kl"] for step in told["learned"]]
    assert divergence[-1] < 0.8 * divergence[0]
