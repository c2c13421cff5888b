"""2N steps are N steps, a checkpoint, a new process and N steps: to the last bit."""

import pytest

from tests.support.tiny_policy import Job, TinySource, launch_jobs, policy_setup, write_tiny_folder

N = 3


def _straight(worker, argument):
    setup, _, source = argument
    worker.setup(setup)
    return [_exact(worker.train_step(source, step)) for step in range(2 * N)]


def _first_half(worker, argument):
    setup, folder, source = argument
    worker.setup(setup)
    first = [_exact(worker.train_step(source, step)) for step in range(N)]
    worker.save_checkpoint(folder, {"step": N})
    return first, _weights(worker)


def _second_half(worker, argument):
    setup, folder, source = argument
    worker.setup(setup)
    step = worker.load_checkpoint(folder)["step"]
    weights = _weights(worker)
    return weights, [_exact(worker.train_step(source, s)) for s in range(step, 2 * N)]


def _exact(result):
    return result.loss.hex(), result.grad_norm.hex(), result.lr.hex(), result.metrics


def _weights(worker):
    return {name: tensor.float().numpy().tobytes() for name, tensor in worker.weight_tensors()}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
    from nemo_cascade.losses.policy import PolicyLoss

    root = tmp_path_factory.mktemp("resume")
    hf = write_tiny_folder(root / "tiny")
    rl = {"objective": PolicyLoss(PolicyLossConfig(clip_ratio_high=0.28))}
    cases = {
        "sft fp32": ((0,), {}, TinySource()),
        "sft bf16": ((1,), {"dtype": "bf16"}, TinySource()),
        "rl bf16": ((0,), {"dtype": "bf16", **rl}, TinySource(extras=("advantages", "behaviour_logprobs"))),
        "sft fp32 unsharded": ((1,), {"distributed": False}, TinySource(micro=2)),
        "sft bf16 dp2": ((0, 1), {"dtype": "bf16", "dp": 2}, TinySource()),
        "sft bf16 pp2": ((0, 1), {"dtype": "bf16", "pp": 2}, TinySource()),
    }
    arguments = {}
    for name, (ranks, changes, source) in cases.items():
        folder = root / name.replace(" ", "-")
        folder.mkdir()
        arguments[name] = ranks, (policy_setup(hf, **changes), str(folder), source)

    def launch(*works):
        jobs = [
            Job(f"{name}/{work.__name__}", ranks, work, a) for name, (ranks, a) in arguments.items() for work in works
        ]
        return launch_jobs(jobs, world_size=2)

    before, after = launch(_straight, _first_half), launch(_second_half)  # two launches: no process outlives the first
    return {
        name: (before[f"{name}/_straight"], before[f"{name}/_first_half"], after[f"{name}/_second_half"])
        for name in cases
    }


@pytest.mark.distributed
@pytest.mark.parametrize(
    "name", ["sft fp32", "sft bf16", "rl bf16", "sft fp32 unsharded", "sft bf16 dp2", "sft bf16 pp2"]
)
def test_resumed_training_is_bit_identical(halves, name):
    straight, first, second = halves[name]
    for whole, (early, saved), (loaded, late) in zip(straight, first, second, strict=True):
        assert early + late == whole
        assert loaded == saved
    assert len(straight[0]) == 2 * N
    assert straight[0][0] != straight[0][-1]
