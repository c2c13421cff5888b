"""Pass rates measured before a stage or a round begins, with scripted engines and judges."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.stages.preference import SampledPairsConfig
from nemo_cascade.config.stages.tasks import ProfileConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.stages.profile import profiled_at_start
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn

G = 4


class Roles:
    """Engines and judges in one: of prompt i just the first i samples are right."""

    asked, judging = 0, ()

    def engines_with(self, model, version):
        return self

    def judges(self, model, group_size, reward_model):
        return self

    def environments(self, model):
        return SimpleNamespace(forget=lambda places: None)

    def self_test(self, names, settings):
        pass

    def generate(self, questions, sampling, seed):
        ids, logprobs = np.array([1, 2], np.int32), np.zeros(2, np.float32)
        self.asked += len(questions)
        for q in questions:
            yield [first_turn(q.task_id, s, q.token_ids, ids, logprobs, FinishReason.STOP, 1) for s in q.samples]

    def submit(self, samples):
        self.judging = [*self.judging, *samples]

    def drain(self):
        samples, self.judging = self.judging, ()
        return [(said.place, Verdict(float(said.sample < int(task.task_id[1:])))) for task, said in samples]


@pytest.fixture
def model(tmp_path):
    train_nano_tokenizer((), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["grpo", "round"])
def test_a_stage_and_a_round_take_the_prompts_that_their_start_solves_as_often_as_is_asked(tmp_path, model, kind):
    config = compose(["cascade=nano", f"data_dir={tmp_path}", "logging.progress=false"])[0]
    stage = config.stages["math_rl"]
    tasks = {"math": replace(stage.tasks["math"], profile=ProfileConfig(samples=G, at_least=0.25, at_most=0.5))}
    asking = replace(stage, tasks=tasks) if kind == "grpo" else SampledPairsConfig(tasks=tasks, num_generations=3)
    records = [{"messages": [{"role": "user", "content": f"{i}?"}]} for i in range(G + 1)]
    prompts = [Task(f"t{i}", "math", "math", np.array([i], np.int32), record) for i, record in enumerate(records)]
    roles = Roles()
    for _ in range(2):  # a stage that goes on finds them on disk
        found = profiled_at_start(config, roles, asking, PromptSet.of_tasks({"math": PromptSet(prompts)}), model, 7)
        assert [task.task_id for task in found.prompts] == ["t1", "t2"]
        assert roles.asked == len(prompts)


@pytest.mark.parametrize(
    ("cascade", "task"),
    [("nano", "stages.rlhf.tasks.chat"), ("nano_nemotron_4", "stages.rpo_1.sampled.tasks.chat")],
)
def test_a_reward_model_can_not_say_what_is_solved(cascade, task):
    (told,) = map(str, violations(compose([f"cascade={cascade}", f"{task}.profile.samples=4"])[0]))
    assert f"{task}: profile.samples=4 with reward.kind=preference" in told
