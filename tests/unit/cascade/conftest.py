"""A run folder as a real run would leave it: three stages, the last of them unfinished."""

import gzip
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.gate import decide
from nemo_cascade.cascade.ledger import Ledger
from nemo_cascade.config.gate import GateConfig
from nemo_cascade.config.model import ModelConfig, OptimizerConfig
from nemo_cascade.config.reading.provenance import config_hash
from nemo_cascade.config.schema import EvaluationConfig, RunConfig, SuiteConfig
from nemo_cascade.config.stages.base import PromiseConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.config.stages.reward_model import RewardModelStage
from nemo_cascade.config.stages.sft import SftStage
from nemo_cascade.config.stages.sft_data import SftDataConfig, SourceConfig
from nemo_cascade.config.stages.tasks import TaskConfig
from nemo_cascade.data.hygiene.prompt_index import LIMITS
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.telemetry.metrics import MetricsLog

DOMAINS = ("math", "instruction", "code")


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("cascade")
    suite = {"path": "eval.jsonl", "reward": {"kind": "math"}, "num_prompts": 60}
    rl = GrpoStage(
        optimizer=OptimizerConfig(lr=2e-6),
        seq_length=512,
        tasks={"math": TaskConfig(path="math.jsonl", domain="math", reward={"kind": "math"})},
        steps=40,
        prompts_per_step=16,
        num_generations=8,
        promise=PromiseConfig(improve=["math"]),
    )
    return RunConfig(
        name="trial",
        runs_dir=str(tmp_path / "runs"),
        data_dir=str(tmp_path / "data"),
        model=ModelConfig(name="nano"),
        gate=GateConfig(on_regression="hold"),
        evaluation=EvaluationConfig(suites={domain: SuiteConfig(**suite) for domain in DOMAINS}),
        stages={
            "sft1": SftStage(
                optimizer=OptimizerConfig(lr=5e-5),
                seq_length=512,
                global_batch_size=8,
                data=SftDataConfig(sources=[SourceConfig(path="sft.jsonl")]),
                promise=PromiseConfig(improve=["math", "instruction"]),
            ),
            "math_rl": rl,
            "code_rl": replace(
                rl,
                optimizer=OptimizerConfig(lr=4e-6),
                tasks={"code": TaskConfig(path="code.jsonl", domain="code", reward={"kind": "code"})},
                steps=100,
                promise=PromiseConfig(improve=["code"]),
            ),
        },
    )


@pytest.fixture(scope="session")
def with_reward_model(config):
    """Return the configuration with a reward model between its first two stages."""
    reward = RewardModelStage(
        optimizer=OptimizerConfig(lr=2e-6),
        seq_length=256,
        global_batch_size=4,
        data=PairDataConfig(path="pairs.jsonl", holdout_path="held.jsonl"),
        min_accuracy=0.7,
    )
    (first, sft), *rest = config.stages.items()
    return replace(config, stages={first: sft, "rm": reward, **dict(rest)})


@pytest.fixture
def run_folder(finished_folder, tmp_path):
    shutil.copytree(finished_folder.path, tmp_path / "trial")
    return RunFolder(tmp_path / "trial")


@pytest.fixture(scope="session")
def finished_folder(config):
    rng = np.random.default_rng(0)
    folder = RunFolder(Path(config.runs_dir) / config.name)
    folder.write_record(config, {"seed": "schema default"})
    ledger = Ledger(folder.ledger)
    ledger.append("run_started", config=config_hash(config), seed=0)
    skill = {"start": (0.05, 0.1, 0.05), "sft1": (0.4, 0.6, 0.35), "math_rl": (0.75, 0.58, 0.1)}
    parent, parent_name = None, None
    for index, (name, levels) in enumerate(skill.items()):
        path = folder.stage(index, name)
        path.mkdir(parents=True)
        if name == "sft1":
            write_sft_metrics(path / "metrics.jsonl", 120, rng)
        elif name == "math_rl":
            write_grpo_metrics(path / "metrics.jsonl", 40, rng)
            write_rollouts(path, 1)
            write_rollouts(path, 40)
        scores = Scores({d: draw_scores(d, level, rng) for d, level in zip(DOMAINS, levels, strict=True)})
        scores.save(path / "scores.json")
        if parent is not None:
            ledger.append(
                "stage_started", stage=name, kind=config.stages[name].kind, parent=parent_name, weights="a" * 64
            )
            if name == "math_rl":
                ledger.append("stage_ended", stage=name, rule="truncation_rate", step=40, value=0.0987, limit=0.1)
            ledger.append("trained", stage=name, weights="b" * 64)
            decision = decide(config, name, parent, scores)
            decision.save(path / "gate.json")
            ledger.append("decided", stage=name, **decision.summary())
        parent, parent_name = scores, name
    rules = {**asdict(config.hygiene), **LIMITS}
    folder.hygiene.write_text(json.dumps({"rules": rules, "files": {"math.jsonl": "c" * 64}, "pairs": []}))
    unfinished = folder.stage(3, "code_rl")
    unfinished.mkdir()
    write_grpo_metrics(unfinished / "metrics.jsonl", 7, rng)
    return folder


def draw_scores(domain, level, rng, prompts=60):
    return {f"{domain}/{i}": [float(rng.random() < level) for _ in range(2)] for i in range(prompts)}


def write_sft_metrics(path, steps, rng):
    log = MetricsLog(path)
    for step in range(1, steps + 1):
        log.log(
            step,
            {
                "loss": 1.2 + 3 * np.exp(-step / 25) + rng.normal(0, 0.05),
                "grad_norm": 1 + 2 / step + rng.random() * 0.2,
                "lr": 5e-5 * (1 - step / steps),
                "tokens": int(rng.integers(3000, 4000)),
                "skipped": False,
                "seconds": {"train": 1.1 + rng.random() * 0.1, "other": 0.05},
                "tokens_per_s": 3000 + rng.random() * 100,
            },
        )


def write_grpo_metrics(path, steps, rng):
    log = MetricsLog(path)
    for step in range(1, steps + 1):
        reward = 0.3 + 0.5 * (1 - np.exp(-step / 15)) + rng.normal(0, 0.03)
        log.log(
            step,
            {
                "reward_mean": reward,
                "reward_std": 0.4 + rng.normal(0, 0.02),
                "solved_all": max(0.0, reward - 0.4),
                "solved_none": max(0.0, 0.4 - reward),
                "response_length_p50": 60 + step * 0.4 + rng.normal(0, 3),
                "response_length_p95": 120 + step * 0.4 + rng.normal(0, 6),
                "response_length_max": 200,
                "truncation_rate": 0.1 * np.exp(-step / 20),
                "entropy": 0.6 * np.exp(-step / 60),
                "logprob_difference_mean": 10 ** rng.normal(-5, 0.1),
                "logprob_difference_max": 10 ** rng.normal(-4, 0.2),
                "grad_norm": 0.5 + rng.random() * 0.2,
                "loss": rng.normal(0, 0.01),
                "lr": 2e-6,
                "tokens": int(rng.integers(8000, 9000)),
                "tokens_per_s": 900 + rng.random() * 50,
                "verdict_errors": int(rng.random() < 0.05),
                "groups_dropped": 0,
                "seconds": {
                    "generate": 5 + rng.random(),
                    "verify": 0.4,
                    "logprob": 0.6,
                    "train": 2.5 + rng.random() * 0.3,
                    "sync": 0.4,
                    "other": 0.1,
                },
            },
        )


def write_rollouts(stage, step):
    file = stage / "rollouts" / f"step_{step:06d}.jsonl.gz"
    file.parent.mkdir(exist_ok=True)
    line = {"prompt": "<|im_start|>user\nWhat is 3 < 4?<|im_end|>", "domain": "math", "version": step, "error": None}
    rows = [
        {**line, "response": "<think>\n3 < 4</think>\n\\boxed{yes}", "reward": 1.0, "finish_reason": "stop"},
        {**line, "response": "<script>alert('x')</script> no", "reward": 0.0, "finish_reason": "stop"},
        {**line, "response": "and so on " * 1000, "reward": 0.0, "finish_reason": "length"},
        {**line, "response": "?", "reward": None, "finish_reason": "stop", "error": "timeout"},
    ]
    rows[0]["turns"] = [{"given": "first question", "said": "a call"}, {"given": "its result", "said": "\\boxed{yes}"}]
    with gzip.open(file, "wt") as out:
        out.writelines(json.dumps({**row, "prompt_id": f"math/{i}"}) + "\n" for i, row in enumerate(rows))
