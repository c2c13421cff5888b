"""Rollout engines, sampling and weight sync."""

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.errors import CascadeError


def _exactly_sampled(value: float) -> float:
    """Refuse a temperature that vLLM would raise to 0.01, so that it would sample from another law than is scored."""
    if 0 < value < 0.01:
        raise ValueError("0, or 0.01 and above")
    return value


Temperature = Annotated[float, Field(ge=0, le=2), AfterValidator(_exactly_sampled)]
Probability = Annotated[float, Field(gt=0, le=1)]


@block
class SamplingConfig:
    """How tokens are drawn."""

    temperature: Temperature = 1.0
    """Softmax temperature, within what vLLM takes; 0 is greedy (evaluation only)."""
    top_p: Probability = 1.0
    """Nucleus mass; below 1 the sampled distribution is not the scored one, so importance correction is refused."""
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    max_tokens: PositiveInt = 256
    """Most response tokens; a response that reaches it is truncated (finish reason `length`)."""
    thinking_budget: PositiveInt | None = None
    """Tokens after which a thought ends: its closing tag is put there and the answer follows. Such tokens are given,
    not sampled: they are never trained. null: a thought ends by itself."""
    thinking_overrun: NonNegativeInt = 0
    """Tokens that a thought may go on behind its budget, up to the next end of a line."""


@block
class WeightSyncConfig:
    """Hand-over of weights from trainer to engine."""

    bucket_mib: PositiveInt = 256
    """Weights travel in buckets of about this size."""
    deadline_s: PositiveFloat = 600.0
    """A sync that takes longer stops the run with the phase it hung in."""
    verify: Literal["first", "always", "off"] = "first"
    """When trainer and engines must prove after a sync that they hold equal weights (checksums of what the engines'
    workers hold, exact in any dtype) and compute equal log-probs: the first of a stage, every one, never."""
    mean_logprob_difference: PositiveFloat | None = None
    """Largest allowed mean |trainer - engine| log-prob on the probe; over it the run stops. Where none of the three
    limits is set, the coarser dtype of both sides says them: fp32 1e-3 at most; bf16 0.1 in the mean and 0.5 at the
    99 % quantile, fp8 twice that, and up to four times as much where rounding alone, measured beside it, gives a third
    of it."""
    quantile_logprob_difference: PositiveFloat | None = None
    """Largest allowed 99 % quantile of the same."""
    max_logprob_difference: PositiveFloat | None = None
    """Largest allowed maximum of the same."""


@block
class RolloutConfig:
    """The vLLM engines."""

    num_engines: PositiveInt = 1
    """Engine replicas (data parallel for generation)."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs of one engine."""
    placement: Literal["colocated", "disaggregated"] = "colocated"
    """colocated: engines share the policy's GPUs in turns; disaggregated: GPUs of their own."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Dtype of the engine's weights."""
    max_model_len: PositiveInt = 2048
    """Most tokens of prompt and response together."""
    max_num_seqs: PositiveInt = 256
    """Most sequences in one engine step."""
    max_num_batched_tokens: PositiveInt = 8192
    """Most tokens in one engine step."""
    kv_cache_gib: PositiveFloat = 1.0
    """KV cache of an engine on CPU."""
    gpu_memory_utilization: Probability = 0.6
    """Share of GPU memory an engine may take."""
    kv_cache_blocks: PositiveInt | None = None
    """KV cache of an engine on a GPU, blocks of `block_size` tokens; null: what fits into its share of the memory that
    is free when it starts, so that a resumed run may batch otherwise."""
    block_size: PositiveInt = 32
    """KV cache block, tokens; 32 shares prefixes best on CPU."""
    enforce_eager: bool = True
    """No CUDA graphs, no compilation."""
    generate_deadline_s: PositiveFloat = 3600.0
    """A batch of rollouts that takes longer stops the run."""
    start_deadline_s: PositiveFloat = 600.0
    """An engine that isn't up by then stops the run."""
    weight_sync: WeightSyncConfig = field(default_factory=WeightSyncConfig)
    """Hand-over of weights."""


def room_problems(
    rollout: RolloutConfig, prefix: str, sampling: SamplingConfig, longest: int | None = None
) -> Iterator[CascadeError]:
    """Yield what is wrong where responses, sampled as `prefix` says, leave no room: for a prompt, for an answer.

    Args:
        rollout: the engines.
        prefix: key of what `sampling` belongs to.
        sampling: how they are drawn.
        longest: most tokens of a response, where it isn't what `sampling` says.
    """
    thought = (sampling.thinking_budget or 0) + sampling.thinking_overrun
    if sampling.thinking_budget is not None and thought >= sampling.max_tokens:
        yield CascadeError(
            "the thought leaves no room for an answer",
            value=f"{prefix}.sampling.thinking_budget={sampling.thinking_budget} and thinking_overrun="
            f"{sampling.thinking_overrun}",
            limit=f"together less than {prefix}.sampling.max_tokens={sampling.max_tokens}",
            mend=f"{prefix}.sampling.thinking_budget={max(1, sampling.max_tokens // 2)} "
            f"{prefix}.sampling.thinking_overrun=0",
        )
    if sampling.thinking_budget is None and sampling.thinking_overrun:
        yield CascadeError(
            "only a budget can be overrun",
            value=f"{prefix}.sampling.thinking_overrun={sampling.thinking_overrun}",
            mend=f"{prefix}.sampling.thinking_overrun=0, or give {prefix}.sampling.thinking_budget",
        )
    max_tokens = longest or sampling.max_tokens
    if max_tokens >= rollout.max_model_len:
        yield CascadeError(
            "the response leaves no room for a prompt",
            value=f"{prefix}.sampling.max_tokens={max_tokens}",
            limit=f"less than rollout.max_model_len={rollout.max_model_len}, prompt and response together",
            mend=f"{prefix}.sampling.max_tokens={max(1, rollout.max_model_len // 2)}, or more of rollout.max_model_len",
        )
