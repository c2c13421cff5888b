"""A refusal says value, limit and a mend, and the mend works when it is typed."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import nemo_cascade
from nemo_cascade import errors
from nemo_cascade.cli import main as command
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.errors import ConfigError

RL, SFT = "stages.math_rl", "stages.sft1"
# What is wrong; those of one group are told at once. None of them is right after its mend was typed once.
WRONG = {
    "keys": [
        "stages.dpo.bta=1",
        f"{RL}.bta=1",
        f"{RL}.rl=1e-4",
        f"{RL}.lr=1e-4",
        f"{RL}.optimizr.lr=2e-4",
        "math_rl.optimizer.min_lr=1e-5",
        f"{RL}.los.correction=truncated",
        f"{SFT}.steps=20",
        f"{SFT}.loss.beta=2",
        "+stages.more.bta=1",
        "model.hiden_size=64",
        "seed.x=3",
        "zzz.yyy=3",
        "rollout.max_modl_len=192",
        "evaluation.suites.maths.num_prompts=30",
        "gate.toleranc=0.01",
        "reward.deadlines.cod=3",
        "++sed=3",
        "~reusme",
    ],
    "groups": ["model/x=3", "modle=nano", "rollout=gpuu", "stages.math_rl=null", "prepare=nanno"],
    "values": [
        f"{RL}.sampling.temperature=2.5",
        f"{RL}.sampling.top_k=-3",
        f"{RL}.num_generations=1",
        f"{RL}.loss.correction=trunc",
        f"{RL}.tasks.math.reward.kind=mth",
        "stages.code_rl.kind=grppo",
        f"{SFT}.optimizer.lr=1e-4x",
        "stages.sft2.optimizer.lr=nan",
        "stages.if_rl.optimizer.lr=0",
        "stages.rlhf.optimizer.lr=null",
        f"{SFT}.keep_checkpoints=0",
        f"{SFT}.seq_length=1e3",
        f"{SFT}.optimizer.lr_decay_style=wdd",
        f"{SFT}.optimizer.lr_warmup_fraction=2",
        "stages.swe_rl.steps=null",
        "evaluation.suites.math.sampling.temperature=3",
        "seed=4294967296",
        "gate.on_regression=recovr",
        "logging.sinks=[{kind: wandbb}]",
        "name=2024_01",
    ],
    "together": [
        "name='a/b'",
        "runs_dir=",
        "stages.sft2.optimizer.lr=inf",
        f"{SFT}.optimizer.min_lr=1",
        "stages.if_rl.optimizer.lr_warmup_steps=100000",
        f"{SFT}.optimizer.lr_warmup_fraction=0.5",
        "stages.sft2.optimizer.lr_wsd_decay_steps=5",
        "stages.sft2.optimizer.adam_beta2=1",
        f"{SFT}.optimizer.lr_warmup_init=1",
        f"{SFT}.carry.optimizer=true",
        f"{SFT}.parent=sftt",
        f"{RL}.promise.hold=[mathh]",
        "stages.code_rl.seq_length=100",
        "stages.swe_rl.seq_length=1000000",
        f"{RL}.sampling.max_tokens=4000",
        "evaluation.suites.math.sampling.temperature=0",
        "parallel=tp8_dp8",
    ],
    "between the steps": [
        f"{SFT}.measure.suites=[mth]",
        f"{RL}.measure={{suites: [math], every: 7}}",
        f"{RL}.keep_best=measured_mean",
        "stages.code_rl.measure.patience=2",
        "stages.sft2.keep_best=validation_loss",
        "stages.reward_model.keep_best=reward_mean",
    ],
    "of RL": [
        "stages.if_rl.sampling.temperature=0",
        "stages.if_rl.max_staleness=16",
        f"{RL}.loss.clip_ratio_low=1",
        f"{RL}.end_when={{plateau_steps: 2, window: 99}}",
        "stages.code_rl.loss={correction: truncated, correction_min: 3, correction_max: 2}",
        "stages.code_rl.updates_per_batch=7",
        "stages.rlhf.prompt_filter.enabled=true",
        "stages.swe_rl.schedule=[{from_step: 2, temperature: 0.5}]",
        "stages.swe_rl.entropy_target={nats: 0.5, lowest: 2, highest: 1}",
        "reward.deadlines.code=0.01",
    ],
    "one GPU": ["cluster=dgx_h100", "cluster.gpus_per_node=1"],
    "thirds": ["parallel.tensor_model_parallel_size=3"],
    "parts": ["parallel.virtual_pipeline_model_parallel_size=2", "parallel.sequence_parallel=true"],
    "fp8": ["precision=bf16", "precision.fp8=hybrid"],
    "a variable": ["name='${oc.env:NOBODY_SETS_IT}'"],
}
_TYPED = re.compile(
    r"(?:did you mean |add )?((?:'?[+~]{0,2}[\w./]+=(?:'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[^\s,;?])*'?\s?)+)"
)
_KEY = re.compile(r"did you mean ([+~]{0,2}[\w./]+)[ ?]")


def violations(overrides):
    """Return the refusals of a command line, none where it is taken."""
    try:
        preflight(overrides, None, elsewhere=True)
    except ConfigError as error:
        return list(error.violations)
    return []


def _paths(override):
    """Return the key of an override and those above it."""
    key = override.partition("=")[0].lstrip("+~")
    return [key[: dot.start()] for dot in re.finditer(r"\.|$", key)]


def mended(told, overrides):
    """Return a command line with the mend of a refusal typed: in place of the override that it is about."""
    mend = told.rpartition("mend: ")[2]
    about = re.search(r"got: '?[+~]{0,2}([^;'= ]+)", told)
    named = re.search(r"\(from command line: (.*?)\)[;,]|\(from command line: (.*?)\)$", told)
    wrong = next((o for o in overrides if named and o.replace("'", "") in told.replace("'", "")), None)
    is_about = [o for o in overrides if about and about[1] in (o.partition("=")[2], *_paths(o))]
    begins = re.match(r"([\w.]+):", told)
    is_about += [o for o in overrides if begins and begins[1] in _paths(o)]
    wrong = wrong or next(iter(is_about), None)
    kept = [override for override in overrides if override != wrong]
    if meant := _KEY.match(mend):
        assert wrong, told
        return [*kept, f"{meant[1]}={wrong.partition('=')[2]}" if "=" in wrong else meant[1]]
    if typed := _TYPED.match(mend):
        return [*kept, *shlex.split(typed[1].replace("VALUE", "3"))]
    if mend.startswith("~"):
        return [*kept, mend]
    if asked := re.search(r"`nemo-cascade (explain [\w.]+)`", mend):
        words = asked[1].split()
        assert command.main([*words, *(["cascade=nano"] if words[1].count(".") else [])]) == 0, told
        return kept
    raise AssertionError(f"no mend to type: {told}")


@pytest.mark.parametrize("group", WRONG)
def test_each_mend_works_as_it_is_printed(group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    overrides = ["cascade=nano", *WRONG[group]]
    first = violations(overrides)
    for told in first:
        assert "mend: " in told
        assert "got: " in told or group in ("keys", "a variable")
        assert "allowed: " in told or "did you mean" in told, told
        overrides = mended(told, overrides)
    assert len(first) >= len(WRONG[group]) - (group in ("one GPU", "fp8", "between the steps"))
    assert not set(first) & set(violations(overrides))


TERM = f"{RL}.tasks.math.reward.terms.0"
MIX = f"{RL}.tasks.math.reward={{kind: mix, terms: [{{reward: {{kind: math}}, weight: 0.5}}]}}"


@pytest.mark.parametrize(
    ("given", "wrong", "mend"),
    [
        ([MIX.replace("math}", "mth}")], [], f"{TERM}.reward.kind=math"),
        ([MIX], [f"{TERM}.weigt=2"], f"{TERM}.weight"),
        ([MIX], [f"{TERM}.verifier=math"], f"{TERM}.reward={{kind: ...}}"),
        ([MIX], [f"{TERM}.weight=abc"], f"nemo-cascade explain {TERM}.weight"),
        ([MIX], [f"{RL}.tasks.math.reward.terms.1.weight=2"], f"{TERM}.weight=2"),
        ([f"{RL}.max_staleness=1", f"{RL}.sampling.top_p=0.9"], [], f"{RL}.correct_staleness=false"),
    ],
)
def test_mends_of_a_list_s_parts_and_second_ways_work_as_they_are_printed(given, wrong, mend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (told,) = violations(["cascade=nano", *given, *wrong])
    assert mend in told.rpartition("mend: ")[2]
    if mend.startswith("nemo-cascade "):
        assert command.main([*mend.split()[1:], "cascade=nano", *given]) == 0
        return
    typed = mend.replace("...", "math") if "=" in mend else f"{mend}=2"
    assert violations(["cascade=nano", *given, typed]) == []


def test_a_suggested_key_is_one_that_the_stage_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = violations(["cascade=nano", f"{SFT}.bta=1", f"{RL}.lr=1e-4", "model.hiden_size=64"])
    meant = [re.findall(r"did you mean ([^?]*)\?", line) for line in told]
    assert f"{SFT}.loss.beta" not in f"{told}"
    assert meant[1:] == [[f"{RL}.optimizer.lr"], ["model.architecture.hidden_size"]]


def test_what_is_wrong_behind_an_unreadable_value_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = ["seed=x", "model.hiden_size=5", "parallel.tensor_model_parallel_size=3", "stages.if_rl.max_staleness=16"]
    told = violations(["cascade=nano", *wrong])
    for words in ("seed", "hiden_size", "num_key_value_heads", "intermediate_size", "max_staleness"):
        assert len([line for line in told if words in line]) == 1, told
    assert len(told) == 5


def test_what_a_user_wrote_is_refused_with_a_mend():
    """Every refusal of what a user gives says what to do; what fails in a run's own workings may not know."""
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)} - {"ConfigError", "PausedError"}
    root = Path(nemo_cascade.__file__).parent
    silent = []
    for room in ("cli", "config", "cascade", "data/rows", "data/prompts", "models/hf_config.py", "models/hf_folder.py",
                 "models/sources.py", "slurm", "view", "library.py"):  # fmt: skip
        for file in [root / room] if room.endswith(".py") else sorted((root / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds
                if named and "mend" not in {keyword.arg for keyword in node.keywords}:
                    silent.append(f"{file.relative_to(root)}:{node.lineno}")
    assert silent == []


def test_a_held_run_is_taken_on_by_the_commands_that_it_prints(capsys, tmp_path, monkeypatch):
    from tests.support.decided_run import decided_run

    monkeypatch.chdir(tmp_path)
    decided_run(tmp_path / "runs")
    assert command.main(["plan", "cascade=nano"]) == 0
    told = capsys.readouterr().out
    assert "held after math_rl" in told
    accept = next(line for line in told.splitlines() if "--accept" in line)
    words = shlex.split(accept[accept.index("nemo-cascade") :])
    assert command.main(words[1:]) == 0
    capsys.readouterr()
    assert command.main(["plan", "cascade=nano"]) == 0
    assert "goes on where it stopped" in capsys.readouterr().out
