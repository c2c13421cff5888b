"""A thousand random conversations with tools, modes and all scripts: the real engine, environments and trainer.

What the engine sampled is trained, just that and token by token; what an environment said never is; and the trainer
finds each turn as likely as the engine found it, in the context that it was sampled in.
"""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from nemo_cascade.config.environments import EnvironmentProcessesConfig
from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.chat.encode import encode_prompt, load_tokenizer
from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.rl.ask import play
from nemo_cascade.rl.episodes import Episodes
from nemo_cascade.rl.updates import response_documents
from nemo_cascade.types import EnvironmentUse, Task
from tests.support.engine_process import EngineProcess
from tests.support.played import tool
from tests.support.talking import NATURAL, words, write_talkative
from tests.support.tiny_policy import Job, launch_jobs, policy_setup

pytestmark = [pytest.mark.distributed, pytest.mark.long, pytest.mark.timeout(900)]

TOOLS = [tool("read", "place")]
TALKING = Path(__file__).parents[1] / "support" / "talking.py"
TEMPLATES = ("cascade1", "nano3", "cascade2")
TASKS, SAMPLES, LENGTH, MOST = 42, 8, 500, 24
FP32 = 1e-3


def _generate(worker, questions, sampling, seed):
    return list(worker.generate(questions, sampling, seed))


class Engines:
    """The engine, and what it was asked and said, in order, by sample."""

    def __init__(self, process):
        self.process, self.said = process, {}

    def generate(self, questions, sampling, seed):
        asked = {(q.task_id, sample): q.token_ids for q in questions for sample in q.samples}
        for answers in self.process.do(_generate, questions, sampling, seed, timeout_s=600):
            for answer in answers:
                turn = asked[answer.place], answer.response_ids, answer.sampled_logprobs
                self.said.setdefault(answer.place, []).append(turn)
            yield answers


def tasks_of(template, tokenizer):
    """Return tasks, half of them with a tool, half of them to be thought about."""
    rng = Random(template)
    for i in range(TASKS):
        mode = ("think", "no_think")[i % 2]
        tools = TOOLS if i % 4 < 2 else None
        record = {"messages": [{"role": "user", "content": words(rng, NATURAL)}]}
        record |= {"mode": mode} | ({"tools": tools} if tools else {})
        ids = encode_prompt(tokenizer, record["messages"], mode, tools)
        use = EnvironmentUse(f"{TALKING}:Talker", {}, 6)
        yield Task(f"{template}/{i}", "x", "math", ids, record, environment=use)


def declaration(template):
    """Return how a template declares the tool: a thousand bytes that are to be one token."""
    (opening, *_) = NAMED[template].render([{"role": "user", "content": "x"}], "no_think", TOOLS)
    return opening.text.partition("system\n")[2].partition("<|im_end|>")[0]


def templated(bare, template):
    if template == "cascade1":
        return bare
    install(bare, template, bare.parent / template)
    return next(p.parent for p in (bare.parent / template).rglob("tokenizer.json"))


def scores(worker, argument):
    setup, source = argument
    worker.setup(setup)
    return worker.logprobs(source, 0)


def test_what_is_trained_is_what_was_sampled_and_as_likely_as_it_was(tmp_path):
    train_nano_tokenizer((), tmp_path / "cascade1", [declaration(template) for template in TEMPLATES])
    folders = {template: templated(tmp_path / "cascade1", template) for template in TEMPLATES}
    tokenizers = {template: load_tokenizer(folder) for template, folder in folders.items()}
    vocab_size, (end_id,) = max(t.vocab_size for t in tokenizers.values()), {t.end_id for t in tokenizers.values()}
    model = write_talkative(tmp_path / "model", vocab_size, end_id, head_dim=32)
    config = RolloutConfig(dtype="fp32", max_model_len=LENGTH, max_num_seqs=64, kv_cache_gib=0.0625)
    process = EngineProcess(model_path=model, config=config, seed=0, threads=1, device="cpu")
    engines, over = Engines(process), []
    sampling = SamplingConfig(max_tokens=MOST, temperature=1.0, top_p=1.0)
    for template, tokenizer in tokenizers.items():
        tasks, processes = list(tasks_of(template, tokenizer)), EnvironmentProcessesConfig(processes=1)
        with (
            EnvironmentHosts(processes, str(folders[template]), SandboxConfig()) as hosts,
            Episodes(tasks, SAMPLES, hosts, LENGTH - MOST, 60.0) as episodes,
        ):
            play(episodes, engines, sampling, 5, over.extend)
    process.close()

    answers = [episode.trajectory for episode in over]
    assert len({answer.place for answer in answers}) == len(answers) == len(TEMPLATES) * TASKS * SAMPLES > 1000
    failed = [(e.trajectory.place, e.verdict.error, e.verdict.detail) for e in over if e.verdict.error]
    assert failed == []
    documents = [response_documents(answer, PolicyLossConfig(), trained=True, advantages=1.0) for answer in answers]
    for answer, parts in zip(answers, documents, strict=True):
        turns = iter(engines.said[answer.place])
        for part, document in zip(answer.parts, parts, strict=True):
            predicted = np.flatnonzero(document.loss_mask) + 1
            sampled = []
            for turn in part.turns:
                asked, said, logprobs = next(turns)
                assert np.array_equal(document.input_ids[: turn.begin], asked)
                assert np.array_equal(document.input_ids[turn.begin : turn.end], said)
                assert np.array_equal(document.extras["behaviour_logprobs"][turn.begin - 1 : turn.end - 1], logprobs)
                sampled += range(turn.begin, turn.end)
            assert predicted.tolist() == sampled
        assert next(turns, None) is None

    flat = [document for parts in documents for document in parts]
    source = balanced_micro_batches(flat, 512, 1)
    setup = policy_setup(model, objective=PolicyLoss(PolicyLossConfig()))
    (values,) = launch_jobs([Job("scores", (0,), scores, (setup, source))], world_size=1)["scores"]
    worst = [
        np.abs(trainer - document.extras["behaviour_logprobs"])[turn.begin - 1 : turn.end - 1].max()
        for (part, document), trainer in zip(
            ((p, d) for a, ds in zip(answers, documents, strict=True) for p, d in zip(a.parts, ds, strict=True)),
            source.per_sample([values]),
            strict=True,
        )
        for turn in part.turns
    ]
    assert max(worst) < FP32
    # Not one turn each, and conversations that were written anew are among them.
    assert len(worst) > 2 * len(answers)
    assert len(flat) > 1.1 * len(answers)
