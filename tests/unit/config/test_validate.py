"""Checks across fields: what can't run is refused before anything starts, all of it at once."""

import json
from dataclasses import replace

import pytest

from nemo_cascade.config.checks import host
from nemo_cascade.config.checks.machine import lacks
from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.reading.compose import compose
from tests.support.pinned_nano import PINNED


@pytest.fixture(scope="module")
def nano():
    return compose(PINNED)[0]


def found(*overrides):
    config = compose([*PINNED, *overrides])[0]
    return [str(v) for v in (*violations(config), *lacks(config))]


def expect(lines, *words):
    for word in words:
        assert sum(word in line for line in lines) == 1, (word, lines)
    assert len(lines) == len(words), lines


def test_a_sound_cascade_has_nothing_to_refuse(nano):
    assert violations(nano) == []


def test_wrong_numbers_of_all_stages_are_listed_together():
    lines = found(
        "parallel.data_parallel_size=3",
        "stages.sft1.optimizer.min_lr=1",
        "stages.sft1.carry.optimizer=true",
        "stages.sft2.optimizer.lr_warmup_steps=100",
        "stages.math_rl.carry.optimizer=true",
        "stages.math_rl.updates_per_batch=3",
        "stages.math_rl.max_staleness=4000",
        "stages.math_rl.sampling={top_p:0.95,top_k:20,max_tokens:512}",
        "stages.math_rl.loss.correction=truncated",
        "stages.math_rl.loss.correction_max=0.0001",
        "stages.math_rl.optimizer.adam_eps=inf",
        "stages.math_rl.loss.correction_min=0.5",
        "stages.math_rl.seq_length=128",
        "evaluation.suites.math.sampling.temperature=0",
        "evaluation.suites.instruction.sampling.max_tokens=256",
    )
    expect(
        lines,
        "not finite; got: stages.math_rl.optimizer.adam_eps=inf",
        "stages.sft1.global_batch_size=16; allowed: a multiple of parallel.data_parallel_size=3",
        "stages.sft2.global_batch_size=16; allowed: a multiple of parallel.data_parallel_size=3",
        "stages.sft1.optimizer.min_lr=1.0; allowed: at most lr=0.003",
        "first stage has no parent's optimizer",
        "stages.sft2.optimizer.lr_warmup_steps=100; allowed: less than 100",
        "sft2 is sft, math_rl is grpo",
        "ends before a rollout is that old; got: stages.math_rl.max_staleness=4000; allowed: below steps=",
        "updates_per_batch=3; allowed: a divisor of prompts_per_step x num_generations = 128",
        "stages.math_rl.sampling.max_tokens=512; allowed: less than rollout.max_model_len=256",
        "correction=truncated with sampling top_p=0.95, top_k=20; allowed: top_p=1 and top_k=0",
        "correction_min=0.5; allowed: less than correction_max=0.0001",
        "stages.math_rl.seq_length=128; allowed: at least rollout.max_model_len=256",
        "greedy answers are all the same; got: evaluation.suites.math.samples_per_prompt",
        "evaluation.suites.instruction.sampling.max_tokens=256; allowed: less than",
    )


def test_prompts_and_responses_share_the_engines_length():
    assert found("stages.math_rl.tasks.math.max_tokens=160") == []
    short = found("stages.math_rl.tasks.math={min_tokens:9,max_tokens:8}")
    expect(short, "no prompt is long enough and short enough; got: stages.math_rl.tasks.math.min_tokens=9")
    expect(
        found("stages.math_rl.tasks.math.max_tokens=161"),
        "leaves no room for its response; got: stages.math_rl.tasks.math.max_tokens=161; allowed: 160 =",
    )
    unbounded = found("stages.math_rl.tasks.math.repair={enabled:true,kinds:[]}")
    expect(
        unbounded, "up to a length that isn't given; got: stages.math_rl.tasks.math.repair", "no kind of repair prompt"
    )


def test_what_this_machine_lacks_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "gpu_present", lambda: False)
    monkeypatch.setattr(host, "installed", lambda module: False)
    lines = found(
        "cluster.device=gpu",
        "precision=fp8",
        "model.layer_spec=transformer_engine",
        "model.source=hf",
        f"model.path={tmp_path}/none",
        "prepare=none",
        f"data_dir={tmp_path}",
        "cluster.num_nodes=2",
        "name=a/b",
    )
    expect(
        lines,
        "cluster.device asks for a GPU, this machine has none",
        "FP8 needs Transformer Engine",
        "Transformer Engine is not installed; got: model.layer_spec",
        f"model folder not found; got: model.path={tmp_path}/none",
        "stages.sft1.data.sources.0.path=",
        "stages.sft1.data.sources.1.path=",
        "stages.sft1.data.sources.2.path=",
        "stages.sft2.data.sources.0.path=",
        "stages.sft2.data.sources.1.path=",
        "stages.sft2.data.sources.2.path=",
        "stages.sft2.data.sources.3.path=",
        "stages.math_rl.tasks.math.path=",
        "evaluation.suites.math.path=",
        "evaluation.suites.instruction.path=",
        "several machines need a Ray cluster; got: cluster.num_nodes=2",
        "name can't be a folder",
        "need more GPUs than there are; got: 1; allowed: 0",
    )


def test_policy_and_engines_must_fit_the_gpus(nano, monkeypatch):
    monkeypatch.setattr(host, "gpu_present", lambda: True)
    cluster = replace(nano.cluster, device="gpu", gpus_per_node=4)
    config = replace(nano, cluster=cluster, parallel=replace(nano.parallel, data_parallel_size=4))
    assert violations(config) == []
    apart = replace(config, rollout=replace(config.rollout, placement="disaggregated"))
    expect(
        [str(v) for v in violations(apart)],
        "disaggregated) need more GPUs than there are; got: 5; allowed: 4",
    )


def test_the_same_bits_on_a_gpu_need_a_fixed_number_of_cache_blocks(monkeypatch):
    monkeypatch.setattr(host, "gpu_present", lambda: True)
    wanted = ["cluster.device=gpu", "cluster.gpus_per_node=8", "cluster.deterministic=true"]
    expect(found(*wanted), "rollout.kv_cache_blocks=null")
    assert found(*wanted, "rollout.kv_cache_blocks=512") == []
    assert found("cluster.deterministic=true") == []


def test_data_that_prepare_will_write_need_not_exist_yet_but_no_other(tmp_path):
    elsewhere = tmp_path / "mine.jsonl"
    lines = found(f"data_dir={tmp_path}", f"stages.sft1.data.sources.0.path={elsewhere}")
    expect(lines, f"data not found; got: stages.sft1.data.sources.0.path={elsewhere}")
    elsewhere.write_text(json.dumps({}) + "\n")
    assert found(f"data_dir={tmp_path}", f"stages.sft1.data.sources.0.path={elsewhere}") == []


def test_a_blend_that_names_half_its_weights_or_domains_is_refused(nano):
    path = nano.stages["sft1"].data.sources[0].path
    two = f"[{{path:'{path}',domain:math,weight:1}},{{path:'{path}',domain:code}}]"
    expect(found(f"stages.sft1.data.sources={two}"), "some of stages.sft1.data.sources have a weight; got: none:")
    balanced = [f"stages.sft1.data.sources={two}", "stages.sft1.data.domain_weights={math:1,code:2}"]
    assert found(*balanced) == []
    lines = found(f"stages.sft1.data.sources={two}", "stages.sft1.data.domain_weights={math:1,cod:2}")
    expect(lines, "domain_weights names cod, math; allowed: the domains of the sources: code, math")


RM = "+stages.rm={kind:reward_model,seq_length:64,global_batch_size:4,optimizer:{lr:1},data:{path:%s,holdout_path:%s}}"


def test_preference_needs_a_reward_model_that_is_there_by_then(tmp_path):
    (tmp_path / "pairs.jsonl").touch()
    (tmp_path / "config.json").touch()
    rm = RM % (tmp_path / "pairs.jsonl", tmp_path / "pairs.jsonl")
    ask = ["stages.math_rl.tasks.math.reward.kind=preference", "evaluation.suites.math.reward.kind=preference"]
    expect(
        found(rm, *ask, "evaluation.suites.instruction.reward_model=rm"),
        "preference needs a reward model; got: stages.math_rl.reward_model=None",
        "preference needs a reward model; got: evaluation.suites.math.reward_model=None",
        "no reward model is asked there; got: evaluation.suites.instruction.reward_model=rm",
    )
    # The stage `rm` comes behind math_rl: a suite may wait for it, math_rl can't.
    here = [f"{place}.reward_model=rm" for place in ("stages.math_rl", "evaluation.suites.math")]
    expect(
        found(rm, *ask, *here),
        "no reward model by then; got: stages.math_rl.reward_model=rm; allowed: reward models by then: none",
    )
    misspelt = [here[0].replace("=rm", "=mr"), here[1]]
    expect(found(rm, *ask, *misspelt), "model folder not found; got: stages.math_rl.reward_model=")
    folder = [here[1], f"stages.math_rl.reward_model={tmp_path}"]
    assert found(rm, *ask, *folder) == []
    expect(found("+reward.deadlines.maths=3"), "unknown verifier; got: reward.deadlines.maths")


def test_a_reward_model_promises_nothing_and_starts_from_a_model(tmp_path):
    (tmp_path / "pairs.jsonl").touch()
    rm = RM % (tmp_path / "pairs.jsonl", tmp_path / "held.jsonl")
    expect(
        found(rm, "+stages.rm.promise.improve=[math]", "+stages.rm.model_path=nowhere"),
        "data not found; got: stages.rm.data.holdout_path=",
        "a reward model changes no domain's score",
        "model folder not found; got: stages.rm.model_path=",
    )


def test_genrm_needs_a_server_and_responses_to_compare():
    ask = ["stages.math_rl.tasks.math.reward.kind=genrm", "evaluation.suites.math.reward.kind=genrm"]
    expect(
        found(*ask, "evaluation.suites.math.samples_per_prompt=1"),
        "genrm compares responses to one prompt; got: evaluation.suites.math.reward.kind: 1",
        "genrm needs a judge's server; got: stages.math_rl.tasks.math.reward.kind",
    )
    assert found(*ask, "reward.genrm.url=http://judge:8000/v1", "reward.genrm.model=judge") == []


def test_the_combined_reward_needs_a_reward_model():
    expect(
        found("stages.math_rl.shaping.combine=preference"),
        "preference needs a reward model; got: stages.math_rl.reward_model=None",
    )


def test_a_filter_without_solved_prompts_and_rules_that_can_t_end_a_stage_are_refused():
    expect(
        found(
            "stages.math_rl.end_when={plateau_steps:5,window:100000}",
            "stages.math_rl.prompt_filter.enabled=true",
            "stages.math_rl.tasks.math.reward.kind=genrm",
            "reward.genrm.url=http://judge:8000/v1",
            "reward.genrm.model=judge",
        ),
        "no rule can end the stage before its last step; got: stages.math_rl.end_when: window=100000, min_steps=0",
        "don't tell which prompts are solved; got: stages.math_rl.prompt_filter.enabled=true with genrm",
    )
