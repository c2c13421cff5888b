"""Teachers on real Megatron ranks: several models at once score as each alone does, and what is learned of them."""

import numpy as np
import pytest

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.config.stages.policy_loss import PolicyLossConfig, TeacherAdvantageConfig
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.layout import make_document
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.processes.ports import free_port
from nemo_cascade.training.launch import run_ranks
from nemo_cascade.training.scoring.frozen import FrozenWorker
from nemo_cascade.training.setup import FrozenSetup
from nemo_cascade.training.worker import TrainerWorker
from tests.support.tiny_policy import VOCAB, place, policy_setup, write_tiny_folder

SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 32}
TEMPERATURE = 0.7
LOSS = PolicyLossConfig(aggregation="sequence", correction="icepop", correction_min=0.5, correction_max=2.0)


def documents(seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for length in (9, 17, 5, 12):
        trained = np.zeros(length, np.uint8)
        trained[3:] = 1
        weights = np.where(trained > 0, np.float32(1 / trained.sum()), np.float32(0))
        made.append(
            make_document(rng.integers(0, VOCAB, length).astype(np.int32), trained, {"sequence_weights": weights})
        )
    return made


def work(rank, world_size, port, folders, ports):
    """Score with both teachers at once; then, alone, what the policy's worker says of each, and steps by a teacher."""
    source = balanced_micro_batches(documents(), 24, world_size)
    setup = policy_setup(folders[0], dp=world_size)
    frozen = FrozenWorker(**place(rank, world_size, port))
    frozen.setup(FrozenSetup(tuple(folders), setup.model, setup.parallel, setup.precision, 64, TEMPERATURE))
    together = [frozen.logprobs(folder, source) for folder in folders]
    frozen.close()
    if rank > 0:
        return together, None, None
    policy = TrainerWorker(**place(0, 1, ports))
    whole, alone = balanced_micro_batches(documents(), 64, 1), []
    objective = PolicyLoss(LOSS, TEMPERATURE, teacher=TeacherAdvantageConfig())
    optimizer = OptimizerConfig(lr=1e-3)
    for folder in folders:
        policy.setup(policy_setup(folder, objective=objective, optimizer=optimizer))
        alone.append(whole.per_sample([policy.logprobs(whole, 0)]))
    steps = {}
    for taught, word in (("itself", alone[0]), ("another", alone[1])):
        for size in (24, 64):
            batch = balanced_micro_batches(documents(), size, 1)
            batch = batch.with_extra("teacher_logprobs", word).with_extra("behaviour_logprobs", alone[0])
            policy.setup(policy_setup(folders[0], objective=objective, optimizer=optimizer))
            steps[taught, size] = policy.train_step(batch, 0)
            if (taught, size) == ("another", 64):
                steps["after"] = [policy.train_step(batch, step) for step in range(1, 6)][-1]
    policy.close()
    return together, alone, steps


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    folders = [write_tiny_folder(root / name, seed, **SMALL) for seed, name in enumerate(("student", "teacher"))]
    return run_ranks(work, 2, folders, free_port(), deadline_s=200.0)


def test_models_that_share_ranks_score_as_each_does_alone(answers):
    source = balanced_micro_batches(documents(), 24, 2)
    for number in range(2):
        found = source.per_sample([answers[rank][0][number] for rank in range(2)])
        for ours, theirs in zip(found, answers[0][1][number], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert np.abs(answers[0][1][0][1] - answers[0][1][1][1]).max() > 0.01


def test_a_student_that_is_its_teacher_stays_as_it_is(answers):
    step = answers[0][2]["itself", 64]
    assert abs(step.loss) < 1e-5
    assert step.grad_norm < 1e-4
    assert abs(step.metrics["reverse_kl"]) < 1e-5


def test_any_split_into_micro_batches_gives_the_same_step(answers):
    steps = answers[0][2]
    one, several = steps["another", 64], steps["another", 24]
    assert one.loss == pytest.approx(several.loss, abs=1e-6)
    assert one.grad_norm == pytest.approx(several.grad_norm, rel=1e-4)
    assert one.grad_norm > 100 * steps["itself", 64].grad_norm


def test_steps_bring_the_student_nearer_to_its_teacher(answers):
    steps = answers[0][2]
    # The tokens are nobody's samples: the mean difference has either sign, and goes to 0.
    before, after = steps["another", 64].metrics["reverse_kl"], steps["after"].metrics["reverse_kl"]
    assert abs(after) < 0.2 * abs(before)
