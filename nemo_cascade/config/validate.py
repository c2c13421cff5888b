"""Checks across fields, all reported at once, before any process starts.

What depends on the model's architecture or on the plan of stages is checked where those are known, see cli/preflight;
what this machine lacks, in machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict

from nemo_cascade.config import host
from nemo_cascade.config.origins import flatten
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stage import GENRM, PREFERENCE, GrpoStage, PromptSetConfig, RewardModelStage, SftStage, Stage
from nemo_cascade.config.validate_judges import judge_violations
from nemo_cascade.errors import CascadeError

Problems = Iterator[CascadeError]


def violations(config: RunConfig, verifiers: Collection[str]) -> list[CascadeError]:
    """Return everything that makes a well-typed configuration impossible to run anywhere; empty if nothing does.

    Args:
        config: the composed run.
        verifiers: names that the reward registry knows.
    """
    checks: list[Callable[[RunConfig], Problems]] = [_run, _device, _model, _precision, _machines, _suites]
    found = [problem for check in checks for problem in check(config)]
    for index, (name, stage) in enumerate(config.stages.items()):
        found += _optimizer(f"stages.{name}.optimizer", stage)
        found += _carry(config, index, name, stage)
        if isinstance(stage, SftStage):
            found += _sft(config, name, stage)
        elif isinstance(stage, RewardModelStage):
            found += _reward_model(name, stage)
        else:
            found += _grpo(config, name, stage)
    return found + list(judge_violations(config, verifiers))


def _run(config: RunConfig) -> Problems:
    if not config.name.strip(".") or set(config.name) & set("/\\\0"):
        yield CascadeError("name can't be a folder", value=repr(config.name), mend="name=letters_and_digits")
    for key, value in flatten(asdict(config)).items():  # type: ignore[call-overload]
        # An upper bound may be absent; every other number has to be one.
        if isinstance(value, float) and not math.isfinite(value) and not key.endswith("loss.correction_max"):
            yield CascadeError("the number is not finite", value=f"{key}={value}")


def _device(config: RunConfig) -> Problems:
    if config.rollout.tensor_parallel_size > 1 and host.resolved_device(config.cluster) == "cpu":
        yield CascadeError(
            "an engine on CPU is one process",
            value=f"rollout.tensor_parallel_size={config.rollout.tensor_parallel_size}",
            limit=1,
            mend="raise rollout.num_engines instead",
        )


def _model(config: RunConfig) -> Problems:
    model = config.model
    if model.source == "hf" and model.path is None:
        yield CascadeError("model.source=hf needs a folder", value="model.path=null", mend="model.path=FOLDER")
    elif model.source == "random" and not model.architecture:
        mend = "+model.architecture.model_type=qwen3 and so on, or model=nano"
        yield CascadeError("model.source=random needs model.architecture", value="empty", mend=mend)
    if model.source != "hf" and model.max_position_embeddings is not None:
        value = f"model.max_position_embeddings={model.max_position_embeddings}"
        mend = "model.architecture.max_position_embeddings=... for source=random"
        yield CascadeError("only an HF folder's length is set anew", value=value, limit="null", mend=mend)


def _precision(config: RunConfig) -> Problems:
    if config.precision.fp8 == "off":
        return
    value = f"precision.fp8={config.precision.fp8}"
    if host.resolved_device(config.cluster) == "cpu":
        yield CascadeError("FP8 needs a GPU", value=value, limit="off on CPU", mend="precision=bf16")
    if config.precision.dtype != "bf16":
        yield CascadeError(
            "FP8 goes with bf16", value=f"precision.dtype={config.precision.dtype}", mend="precision=fp8"
        )


def _machines(config: RunConfig) -> Problems:
    cluster, rollout = config.cluster, config.rollout
    if host.resolved_device(cluster) == "cpu":
        return
    if cluster.deterministic and rollout.kv_cache_blocks is None:
        yield CascadeError(
            "the same bits every time need the same number of KV cache blocks",
            value="rollout.kv_cache_blocks=null with cluster.deterministic=true",
            limit="a number",
            mend="take what a run without it logs, or max_num_seqs x max_model_len / block_size",
        )
    have = cluster.num_nodes * cluster.gpus_per_node
    trainer, engines = config.parallel.world_size, rollout.num_engines * rollout.tensor_parallel_size
    for name, stage in config.stages.items():
        if isinstance(stage, RewardModelStage) and stage.parallel and stage.parallel.world_size > have:
            value, limit = f"stages.{name}.parallel: {stage.parallel.world_size} ranks", f"{have} GPUs"
            yield CascadeError("the reward model's layout needs more GPUs than there are", value=value, limit=limit)
    need = max(trainer, engines) if rollout.placement == "colocated" else trainer + engines
    if need > have:
        yield CascadeError(
            f"policy ({trainer} ranks) and engines ({rollout.num_engines} x {rollout.tensor_parallel_size} GPUs, "
            f"{rollout.placement}) need more GPUs than there are",
            value=need,
            limit=f"{have} = cluster.num_nodes x cluster.gpus_per_node",
            mend="fewer replicas or engines, or more nodes",
        )


def _suites(config: RunConfig) -> Problems:
    for name, suite in config.evaluation.suites.items():
        prefix = f"evaluation.suites.{name}"
        yield from _room(config, prefix, suite.sampling.max_tokens)
        if suite.sampling.temperature == 0 and suite.samples_per_prompt > 1:
            value = f"{prefix}.samples_per_prompt={suite.samples_per_prompt}"
            yield CascadeError(
                "greedy answers are all the same", value=value, limit=1, mend=f"{prefix}.sampling.temperature>0"
            )


def _room(config: RunConfig, prefix: str, max_tokens: int) -> Problems:
    if max_tokens >= config.rollout.max_model_len:
        yield CascadeError(
            "the response leaves no room for a prompt",
            value=f"{prefix}.sampling.max_tokens={max_tokens}",
            limit=f"less than rollout.max_model_len={config.rollout.max_model_len}, prompt and response together",
            mend="raise rollout.max_model_len or lower max_tokens",
        )


def _optimizer(prefix: str, stage: Stage) -> Problems:
    optimizer = stage.optimizer
    if optimizer.min_lr > optimizer.lr:
        value = f"{prefix}.min_lr={optimizer.min_lr}"
        yield CascadeError(
            "the schedule ends above its peak", value=value, limit=f"at most lr={optimizer.lr}", mend="lower it"
        )
    total = stage.steps * stage.updates_per_batch if isinstance(stage, GrpoStage) else stage.max_steps
    horizon = optimizer.lr_decay_steps or total
    if horizon is not None and optimizer.lr_warmup_steps >= horizon and optimizer.lr_warmup_steps > 0:
        value = f"{prefix}.lr_warmup_steps={optimizer.lr_warmup_steps}"
        yield CascadeError(
            "warm-up takes the whole schedule", value=value, limit=f"less than {horizon} steps", mend="lower it"
        )
    for beta in ("adam_beta1", "adam_beta2"):
        if getattr(optimizer, beta) >= 1:
            yield CascadeError("Adam forgets nothing", value=f"{prefix}.{beta}={getattr(optimizer, beta)}", limit="< 1")


def _carry(config: RunConfig, index: int, name: str, stage: Stage) -> Problems:
    if not stage.carry.optimizer:
        return
    key = f"stages.{name}.carry.optimizer"
    earlier = list(config.stages.items())[:index]
    parents = [name for name, before in earlier if not isinstance(before, RewardModelStage)]
    if not parents:
        yield CascadeError(
            "the first stage has no parent's optimizer to carry", value=f"{key}=true", mend=f"{key}=false"
        )
    elif config.stages[parents[-1]].kind != stage.kind:
        parent = parents[-1]
        limit = f"a parent of the same kind; {parent} is {config.stages[parent].kind}, {name} is {stage.kind}"
        yield CascadeError("the optimizer can't be carried over", value=f"{key}=true", limit=limit, mend=f"{key}=false")


def _sft(config: RunConfig, name: str, stage: SftStage) -> Problems:
    if not stage.data.sources:
        yield CascadeError(f"stages.{name}.data.sources is empty", mend="name at least one file")
    data_parallel = config.parallel.data_parallel_size
    if stage.global_batch_size % data_parallel:
        yield CascadeError(
            "packs can't be dealt evenly to the replicas",
            value=f"stages.{name}.global_batch_size={stage.global_batch_size}",
            limit=f"a multiple of parallel.data_parallel_size={data_parallel}",
            mend=f"{-(-stage.global_batch_size // data_parallel) * data_parallel}",
        )
    yield from _blend(f"stages.{name}.data", stage)


def _blend(prefix: str, stage: SftStage) -> Problems:
    sources, domains = stage.data.sources, {s.domain for s in stage.data.sources}
    balance = stage.data.domain_weights
    if balance and balance.keys() != domains:
        value = f"{prefix}.domain_weights names {', '.join(sorted(balance))}"
        limit = f"the domains of the sources: {', '.join(sorted(domains))}"
        yield CascadeError("domain_weights must name every domain of the sources", value=value, limit=limit)
    # With a balance of domains, weights are compared inside each domain; without, over all sources.
    for group in [[s for s in sources if s.domain == d] for d in sorted(domains)] if balance else [sources]:
        if len({s.weight is None for s in group}) > 1:
            without = ", ".join(s.path for s in group if s.weight is None)
            limit = "a weight for all sources that share, or for none"
            yield CascadeError(f"some of {prefix}.sources have a weight", value=f"none: {without}", limit=limit)


def _reward_model(name: str, stage: RewardModelStage) -> Problems:
    if stage.promise.improve:
        yield CascadeError(
            "a reward model changes no domain's score",
            value=f"stages.{name}.promise.improve={stage.promise.improve}",
            limit="min_accuracy is what it is judged by",
            mend=f"stages.{name}.promise.improve=[]",
        )


def _grpo(config: RunConfig, name: str, stage: GrpoStage) -> Problems:
    prefix = f"stages.{name}"
    yield from _room(config, prefix, stage.sampling.max_tokens)
    for rules in stage.prompt_sets:
        yield from _prompt_lengths(config, prefix, stage, rules)
    if stage.seq_length < config.rollout.max_model_len:
        yield CascadeError(
            "a micro-batch can't hold the longest rollout",
            value=f"{prefix}.seq_length={stage.seq_length}",
            limit=f"at least rollout.max_model_len={config.rollout.max_model_len}",
            mend=f"{prefix}.seq_length={config.rollout.max_model_len}",
        )
    rollouts = stage.prompts_per_step * stage.num_generations
    if rollouts % stage.updates_per_batch:
        yield CascadeError(
            "the rollouts of a batch can't be dealt evenly to its updates",
            value=f"{prefix}.updates_per_batch={stage.updates_per_batch}",
            limit=f"a divisor of prompts_per_step x num_generations = {rollouts}",
            mend=f"{prefix}.updates_per_batch=1 is strictly on-policy",
        )
    elif rollouts // stage.updates_per_batch < config.parallel.data_parallel_size:
        yield CascadeError(
            "an update has fewer rollouts than there are replicas",
            value=rollouts // stage.updates_per_batch,
            limit=f"at least parallel.data_parallel_size={config.parallel.data_parallel_size}",
            mend=f"raise {prefix}.prompts_per_step",
        )
    yield from _sampled_is_scored(prefix, stage)
    yield from _filter_and_end(prefix, stage)


def _prompt_lengths(config: RunConfig, prefix: str, stage: GrpoStage, rules: PromptSetConfig) -> Problems:
    key = f"{prefix}.prompts" if rules is stage.prompts else f"{prefix}.mixed_with ({rules.domain})"
    if rules.max_tokens is not None and rules.min_tokens > rules.max_tokens:
        value, most = f"{key}.min_tokens={rules.min_tokens}", f"max_tokens={rules.max_tokens}"
        yield CascadeError("no prompt is long enough and short enough", value=value, limit=most)
    if rules.repair.enabled and rules.max_tokens is None:
        mend = f"{key}.max_tokens=16384"
        yield CascadeError("repair prompts are built up to a length that isn't given", value=f"{key}.repair", mend=mend)
    if rules.repair.enabled and not rules.repair.kinds:
        yield CascadeError("no kind of repair prompt", value=f"{key}.repair.kinds=[]", limit="ground_truth, mixed")
    longest, room = rules.max_tokens or 0, config.rollout.max_model_len - stage.sampling.max_tokens
    if longest > room > 0:
        limit = f"{room} = rollout.max_model_len - {prefix}.sampling.max_tokens"
        mend = f"rollout.max_model_len={longest + stage.sampling.max_tokens}"
        value = f"{key}.max_tokens={longest}"
        yield CascadeError("the longest prompt leaves no room for its response", value=value, limit=limit, mend=mend)


def _filter_and_end(prefix: str, stage: GrpoStage) -> Problems:
    unsolvable = sorted({rules.verifier for rules in stage.prompt_sets} & {PREFERENCE, GENRM})
    if stage.prompt_filter.enabled and unsolvable:
        yield CascadeError(
            "a reward model's scores don't tell which prompts are solved",
            value=f"{prefix}.prompt_filter.enabled=true with {', '.join(unsolvable)}",
            mend=f"{prefix}.prompt_filter.enabled=false",
        )
    rules = stage.end_when
    first = max(rules.window, rules.min_steps)
    if (rules.truncation_rate is not None or rules.plateau_steps is not None) and first >= stage.steps:
        yield CascadeError(
            "no rule can end the stage before its last step",
            value=f"{prefix}.end_when: window={rules.window}, min_steps={rules.min_steps}",
            limit=f"less than steps={stage.steps}",
            mend="a smaller window or min_steps, or no rule",
        )


def _sampled_is_scored(prefix: str, stage: GrpoStage) -> Problems:
    """Importance weights compare the trainer's full softmax with the engine's; truncated sampling is another law."""
    sampling, loss = stage.sampling, stage.loss
    if sampling.temperature == 0:
        value = f"{prefix}.sampling.temperature=0"
        yield CascadeError(
            "greedy rollouts of a prompt are all the same: no group has a signal", value=value, mend="1.0"
        )
    truncated = [f"top_p={sampling.top_p}"] * (sampling.top_p < 1) + [f"top_k={sampling.top_k}"] * (sampling.top_k > 0)
    compared = [f"correction={loss.correction}"] * (loss.correction != "none")
    compared += ["kl_correction=true"] * loss.kl_correction
    compared += [f"sequence_error_max={loss.sequence_error_max}"] * (loss.sequence_error_max is not None)
    if compared and truncated:
        yield CascadeError(
            "importance weights need the sampled distribution to be the scored one",
            value=f"{prefix}.loss: {', '.join(compared)} with sampling {', '.join(truncated)}",
            limit="top_p=1 and top_k=0",
            mend=f"{prefix}.sampling.top_p=1.0 {prefix}.sampling.top_k=0, or none of these in {prefix}.loss",
        )
    if loss.correction not in ("none", "uncapped") and loss.correction_min >= loss.correction_max:
        value = f"{prefix}.loss.correction_min={loss.correction_min}"
        limit = f"less than correction_max={loss.correction_max}"
        yield CascadeError("no importance weight is allowed", value=value, limit=limit, mend="widen the bounds")
    if loss.clip_ratio_low >= 1:
        value = f"{prefix}.loss.clip_ratio_low={loss.clip_ratio_low}"
        yield CascadeError("the ratio is clipped at or below 0", value=value, limit="< 1", mend="0.2")
