"""From prompts and sampling settings to vLLM requests; pure functions, so that a rerun asks for the same things."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.errors import RolloutError
from nemo_cascade.types import Question


def request_seed(seed: int, task_id: str, sample: int) -> int:
    """Return the sampling seed of one rollout: 63 bits, a pure function of its place in the run."""
    digest = hashlib.blake2b(f"{seed}/{task_id}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def check_questions(questions: Sequence[Question], max_tokens: int, max_model_len: int, vocab_size: int) -> None:
    """Refuse questions that leave no room for a full response, are empty, share an id, or hold another model's tokens.

    Raises:
        RolloutError: names every such question (the first ten) with its length.
    """
    room = max_model_len - max_tokens
    long = [f"{q.task_id} ({q.token_ids.size} tokens)" for q in questions if q.token_ids.size > room]
    if long:
        raise RolloutError(
            f"{len(long)} of {len(questions)} prompts are too long for their response",
            value=", ".join(long[:10]),
            limit=f"{room} tokens = max_model_len {max_model_len} - max_tokens {max_tokens}",
            mend="raise rollout.max_model_len, lower sampling.max_tokens, or leave these prompts out",
        )
    empty = [q.task_id for q in questions if not q.token_ids.size]
    if empty:
        raise RolloutError("empty prompts", value=", ".join(empty[:10]), limit="at least 1 token")
    unknown = [q.task_id for q in questions if not 0 <= q.token_ids.min() <= q.token_ids.max() < vocab_size]
    if unknown:
        raise RolloutError(
            "prompts hold tokens that the model doesn't have",
            value=", ".join(unknown[:10]),
            limit=f"ids below vocab_size={vocab_size}",
            mend="the prompts were made with another tokenizer than the model's",
        )
    asked = Counter((q.task_id, sample) for q in questions for sample in q.samples)
    twice = dict.fromkeys(name for (name, _), count in asked.items() if count > 1)
    if twice:
        raise RolloutError(
            "prompts with the same id: their samples would be copies of each other", value=", ".join([*twice][:10])
        )


def sampling_params(sampling: SamplingConfig, seed: int, stop_ids: Sequence[int]) -> Any:
    """Return vLLM's parameters of one rollout; log-probs of the sampled token only, nothing is detokenised."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=seed,
        stop_token_ids=list(stop_ids),
        ignore_eos=True,  # only stop_token_ids end a response
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
