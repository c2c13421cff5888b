"""A cascade whose training and scoring are scripted; weights, checkpoints, merges, ledger, gate and report are real.

A model is one tensor: how many of 100 math and of 100 code prompts it solves.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from nemo_cascade.cascade import candidates, runner
from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.inputs import Inputs
from nemo_cascade.config.gate import GateConfig, GateOverride
from nemo_cascade.config.schema import EvaluationConfig, SuiteConfig
from nemo_cascade.config.stages.base import CarryConfig, PromiseConfig
from nemo_cascade.evaluation.scores import Scores
from nemo_cascade.models.hf_folder import HfTensors, write_hf_folder
from nemo_cascade.stages.kinds import KINDS
from nemo_cascade.training.checkpoints.folders import CheckpointStore

START, LAST = (40, 50), (80, 10)
GOOD = {2: (60, 48), 4: (70, 45), 6: LAST}
BAD = {2: (40, 50), 4: (80, 20), 6: LAST}


def write_model(folder, skill, like):
    write_hf_folder(folder, [("skill", torch.tensor(skill, dtype=torch.float32))], like)


def skill_of(folder):
    return tuple(round(float(x)) for x in HfTensors(Path(folder)).part("skill")[:])


class World:
    """Scripted stages: math_rl leaves the given checkpoints, code_rl adds ten to code; it counts what is done."""

    def __init__(self, config, tmp_path, monkeypatch, checkpoints, **gate):
        promise = PromiseConfig(improve=["math"])
        math_rl = replace(
            config.stages["math_rl"], promise=promise, gate=gate.pop("stage_gate", GateOverride()), **gate
        )
        code_rl = replace(config.stages["code_rl"], promise=PromiseConfig(improve=["code"]))
        suite = SuiteConfig(path="eval.jsonl", reward={"kind": "math"}, num_prompts=100)
        self.config = replace(
            config,
            runs_dir=str(tmp_path / "runs"),
            stages={"math_rl": math_rl, "code_rl": replace(code_rl, carry=CarryConfig(optimizer=True))},
            evaluation=EvaluationConfig(suites={"math": suite, "code": suite}),
            gate=GateConfig(on_regression="hold", tolerance=0.05, merge_ratios=[0.1, 0.25, 0.5]),
        )
        self.folder = RunFolder(tmp_path / "runs" / "trial")
        self.start = tmp_path / "start"
        if not self.start.exists():
            self.start.mkdir()
            (self.start / "config.json").write_text("{}")
            write_model(self.start, START, self._companion(tmp_path))
        self.checkpoints, self.scored, self.parents, self.provenance = checkpoints, [], [], {}
        self.engines_start_from = []
        monkeypatch.setattr(runner, "evaluate", self.evaluate)
        monkeypatch.setattr(candidates, "export_checkpoint", self.export)
        monkeypatch.setitem(KINDS, "grpo", replace(KINDS["grpo"], run=self.train))

    def _companion(self, tmp_path):
        like = tmp_path / "like"
        like.mkdir()
        (like / "config.json").write_text("{}")
        return like

    def train(self, context, stage):
        self.parents.append((context.name, skill_of(context.parent_hf), context.parent_checkpoint))
        if context.name == "code_rl":
            math, code = skill_of(context.parent_hf)
            write_model(context.hf_folder, (math, code + 10), context.parent_hf)
            return
        store = CheckpointStore(context.folder / "checkpoints", keep=3)
        for step, skill in self.checkpoints.items():
            with store.saving(step) as folder:
                (folder / "skill.json").write_text(json.dumps(skill))
        write_model(context.hf_folder, self.checkpoints[6], context.parent_hf)

    def export(self, context, stage, checkpoint, target):
        write_model(target, json.loads((checkpoint / "skill.json").read_text()), context.parent_hf)

    def evaluate(self, config, roles, hf, version, label, suites, reward_models):
        self.scored.append(label)
        solved = dict(zip(("math", "code"), skill_of(hf), strict=True))
        return Scores(
            {
                d: {f"{d}/{i}": [float(i * 37 % 100 < solved[d])] for i in range(s.num_prompts)}
                for d, s in suites.items()
            }
        )

    def run(self):
        self.folder.write_record(self.config, self.provenance)
        roles = SimpleNamespace(
            forget=lambda: None, make_room=lambda stage: None, rollout=self.engines_start_from.append
        )
        return self.runner()._cascade(roles)

    def runner(self):
        self.folder.path.mkdir(parents=True, exist_ok=True)
        return runner.CascadeRunner(self.config, self.folder, Inputs(self.start, self.start))

    @property
    def result(self):
        stage = self.folder.stage(1, "math_rl")
        gate = json.loads((stage / "gate.json").read_text())
        return gate["outcome"], gate["model"], skill_of(stage / "hf"), self.parents[-1][1]
