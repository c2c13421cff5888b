"""The loop of a distillation with scripted actors: the order of a step, and a resumed stage equals an unstopped one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import CheckpointError, TrainingError
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.stages.between import measuring
from nemo_cascade.stages.context import StageContext
from nemo_cascade.stages.distill import run_distill
from nemo_cascade.training.setup import StepResult
from nemo_cascade.types import FinishReason, first_turn
from tests.unit.config.test_distill_stage import CONFIG

STEPS = 4
ARCHITECTURE = CONFIG | {"vocab_size": 512, "max_position_embeddings": 512}


class Actors:
    """Policy, engines, teachers and what starts them in one; weights are a number that every step moves by its data."""

    parallel = ParallelConfig()

    def __init__(self, dies_at=None):
        self.weights, self.dies_at, self.done, self.held = 0.0, dies_at, [], None
        self.rollout_version = 0

    def policy(self, setup):
        self.objective = setup.training.objective
        return self

    def rollout(self, folder):
        return self

    def environments(self, folder):
        return SimpleNamespace(forget=lambda places: None)

    def frozen(self, setup):
        self.held = setup.hf_paths
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.held = None

    def sync(self, version, *, verify):
        self.rollout_version = version
        self.done.append(("sync", version, verify))
        return SimpleNamespace(agreement=None)

    def policy_now_holds(self, folder):
        self.done.append(("exported", folder.name))

    def generate(self, questions, sampling, seed):
        said = int(seed + 1000 * self.weights) % 50 + 100
        for question in questions:
            for number in question.samples:
                tokens = np.array([said, said + number], np.int32), np.full(2, -1.0, np.float32)
                yield [first_turn(question.task_id, number, question.token_ids, *tokens, FinishReason.STOP, 1)]

    def logprobs(self, model, source):
        assert model in self.held
        self.done.append(("taught", model.rpartition("/")[2]))
        gap = 0.25 if model.endswith("sft") else 0.5
        shapes = [[sum(source.documents[i].num_tokens for i in m) or 2 for m in plan] for plan in source.plan]
        return [[np.full(n, -1.0 - gap, np.float32) for n in rank] for rank in shapes]

    def train_step(self, source, step):
        if step == self.dies_at:
            raise TrainingError("killed")
        self.done.append(("trained", step))
        self.weights += sum(int(d.input_ids.sum()) for d in source.documents) % 97 / 100
        return StepResult(step, self.weights, 1.0, 1e-3, 8, skipped=False, metrics={"reverse_kl": 0.1})

    def save_checkpoint(self, folder, state):
        with open(f"{folder}/state.json", "w") as out:
            json.dump({"weights": self.weights, "user": state}, out)

    def load_checkpoint(self, folder):
        with open(f"{folder}/state.json") as saved:
            found = json.load(saved)
        self.weights = found["weights"]
        return found["user"]

    def export_hf(self, folder):
        self.exported = self.weights


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("distill")
    for name in ("parent", "sft", "chat_rl"):
        train_nano_tokenizer(["user assistant system You are a helpful and harmless assistant."] * 5, root / name)
        (root / name / "config.json").write_text(json.dumps(ARCHITECTURE))
    for name in ("math", "chat"):
        rows = [{"messages": [{"role": "user", "content": f"{name} {i}"}]} for i in range(9)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def run(root, folder, actors, *more):
    overrides = [f"stages.mopd.tasks.{name}.path={root}/{name}.jsonl" for name in ("math", "chat")] + [
        f"data_dir={folder}/data",
        f"stages.mopd.steps={STEPS}",
        "stages.mopd.prompts_per_step=4",
    ]
    overrides += ["stages.mopd.num_generations=2", "stages.mopd.checkpoint_every=2", "logging.progress=false"]
    config = compose(["cascade=nano_distill", "rollout.max_model_len=256", *overrides, *more])[0]
    context = StageContext(
        config=config,
        name="mopd",
        index=3,
        folder=folder,
        parent_hf=root / "parent",
        parent_checkpoint=None,
        data_folder=folder,
        roles=actors,
        reward_models={},
        models={"sft": root / "sft", "chat_rl": root / "chat_rl"},
        record=lambda *_, **__: None,
    )
    run_distill(context, config.stages["mopd"])
    return lines(folder)


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "tokens_per_s", "teacher_seconds", "memory_bytes"}
    return [{name: value for name, value in line.items() if name not in clock} for line in found]


def test_a_step_is_synced_taught_by_each_teacher_once_and_trained(root, tmp_path):
    actors = Actors()
    told = run(root, tmp_path, actors)
    assert actors.objective.teacher is not None
    expected = []
    for step in range(STEPS):
        expected += [("sync", 30_000_000 + step, step == 0), ("taught", "sft"), ("taught", "chat_rl")]
        expected.append(("trained", step))
    assert actors.done == [*expected, ("exported", "hf")]
    assert [line["reverse_kl_by_domain"] for line in told] == [{"math": 0.25, "chat": 0.5}] * STEPS
    assert [line["responses_by_domain"] for line in told] == [{"math": 4, "chat": 4}] * STEPS
    assert actors.held is None, "the teachers are let go with the stage"


def test_a_stage_that_was_stopped_goes_on_as_if_it_had_not_been(root, tmp_path):
    whole = Actors()
    expected = run(root, tmp_path / "whole", whole)
    with pytest.raises(TrainingError, match="killed"):
        run(root, tmp_path / "cut", Actors(dies_at=3))
    resumed = Actors()
    assert run(root, tmp_path / "cut", resumed) == expected
    assert resumed.exported == whole.exported
    assert [step for what, step, *_ in resumed.done if what == "trained"] == [2, 3]


@pytest.fixture
def scored(monkeypatch):
    """Suites whose score is that of the weights which the engines hold."""

    def score(config, roles, engines, tokenizer, label, suites, reward_models):
        roles.done.append(("scored", label, *(suite.num_prompts for suite in suites.values())))
        return Scores({domain: {"p": [round(roles.weights % 1, 3)]} for domain in suites})

    monkeypatch.setattr(measuring, "score_suites", score)


MEASURE = "stages.mopd.measure={suites: [math], every: 1, num_prompts: 5}"


def test_weights_are_handed_over_once_to_be_scored_and_to_draw(root, tmp_path, scored):
    actors = Actors()
    told = run(root, tmp_path, actors, MEASURE, "stages.mopd.keep_best=measured_mean")
    synced = [version for what, version, *_ in actors.done if what == "sync"]
    assert synced == [30_000_000 + step for step in range(STEPS)]
    first = actors.done.index(("trained", 0))
    assert actors.done[first + 1 : first + 3] == [("sync", 30_000_001, True), ("scored", "mopd step 1", 5)]
    means = [line.get("measured_mean") for line in told]
    assert [line.get("measured_math") for line in told] == means
    assert None not in means[:-1]
    assert means[-1] is None, "the last step is left to the suites behind the stage"
    assert sorted(path.stem for path in (tmp_path / "measured").iterdir()) == [f"step_{n:06d}" for n in (1, 2, 3)]


def test_a_measured_stage_that_was_stopped_goes_on_as_if_it_had_not_been(root, tmp_path, scored):
    whole = Actors()
    expected = run(root, tmp_path / "whole", whole, MEASURE)
    with pytest.raises(TrainingError, match="killed"):
        run(root, tmp_path / "cut", Actors(dies_at=3), MEASURE)
    resumed = Actors()
    assert run(root, tmp_path / "cut", resumed, MEASURE) == expected
    assert resumed.exported == whole.exported


def test_a_stage_ends_early_where_the_scores_rise_no_more_also_when_resumed_there(root, tmp_path, scored, monkeypatch):
    monkeypatch.setattr(Actors, "weights", property(lambda self: 0.5, lambda self, value: None), raising=False)
    told = run(root, tmp_path, Actors(), MEASURE[:-1] + ", patience: 1}")
    assert len(told) == 2
    assert (tmp_path / "checkpoints" / "step_000002").is_dir()
    again = Actors()
    assert run(root, tmp_path, again, MEASURE[:-1] + ", patience: 1}") == told
    assert again.done == [("exported", "hf")]


def test_a_teacher_that_changed_since_the_checkpoint_is_refused(root, tmp_path):
    with pytest.raises(TrainingError, match="killed"):
        run(root, tmp_path, Actors(dies_at=3))
    weights = root / "sft" / "model.safetensors"
    weights.write_bytes(b"others")
    try:
        with pytest.raises(CheckpointError, match="the stage's teachers changed since the checkpoint"):
            run(root, tmp_path, Actors())
    finally:
        weights.unlink()
