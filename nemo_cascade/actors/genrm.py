"""The generative reward model in the loop: a prompt's responses are compared as soon as all of them are there.

The server does the work; this side only waits for it, so threads of the driver are enough.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from nemo_cascade.config.judge import GenRMConfig
from nemo_cascade.data.chat.encode import load_tokenizer, response_text
from nemo_cascade.errors import RewardError
from nemo_cascade.rewards.genrm import GenRM
from nemo_cascade.rewards.judge import JudgeClient
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.shaping import LengthControl
from nemo_cascade.rewards.verifier import VerifierError
from nemo_cascade.types import Prompt, Rollout, Verdict

Judged = list[tuple[str, Verdict]]


class GenRMGroup:
    """Groups of responses on their way to the judge.

    Args:
        config: server and rules.
        tokenizer_path: HF folder whose tokenizer decodes responses.
        group_size: responses to each prompt, at least two.

    Raises:
        RewardError: one response can't be compared with others; no or a wrong URL; the key's variable isn't set.
    """

    def __init__(self, config: GenRMConfig, tokenizer_path: Path, group_size: int) -> None:
        if group_size < 2:
            raise RewardError("a generative reward model compares responses", value=f"{group_size} per prompt", limit=2)
        key = os.environ.get(config.api_key_variable, "")
        if config.api_key_variable and not key:
            raise RewardError("the judge's key isn't set", value=f"environment variable {config.api_key_variable}")
        self._tokenizer, self._group_size = load_tokenizer(tokenizer_path), group_size
        control = LengthControl(
            config.think, config.answer, config.think_bonus, config.answer_bonus, config.quality_percentile
        )
        sampling = {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens}
        client = JudgeClient(config.url, config.model, config.timeout_s, config.attempts, key)
        self._model = GenRM(client, control, group_size, config.parse_attempts, {**sampling, **config.request})
        self._threads = ThreadPoolExecutor(max(1, config.concurrency // group_size), "genrm")
        self._gathering: dict[str, list[tuple[int, str, Rollout]]] = {}
        self._judged: list[Future[Judged]] = []

    def submit(self, key: str, prompt: Prompt, rollout: Rollout) -> None:
        """Hand in a rollout; its verdict comes back with `key` once all of its prompt are in."""
        group = self._gathering.setdefault(prompt.prompt_id, [])
        group.append((rollout.sample, key, rollout))
        if len(group) == self._group_size:
            members = sorted(self._gathering.pop(prompt.prompt_id), key=lambda member: member[0])
            self._judged.append(self._threads.submit(self._judge, prompt, members))

    def drain(self) -> Judged:
        """Wait for all verdicts and return them; a request has its own time limit, so this ends.

        Raises:
            RewardError: a group lacks responses.
        """
        if self._gathering:
            raise RewardError("responses are missing", value=f"{len(self._gathering)} prompts", limit=self._group_size)
        judged, self._judged = self._judged, []
        return [verdict for future in judged for verdict in future.result()]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _judge(self, prompt: Prompt, members: list[tuple[int, str, Rollout]]) -> Judged:
        responses = [
            Response(response_text(self._tokenizer, r.response_ids, r.prompt_ids), r.response_ids, r.finish_reason)
            for _, _, r in members
        ]
        keys = [key for _, key, _ in members]
        try:
            scores = self._model.score_group(prompt.record["messages"], responses)
        except VerifierError as error:
            return [(key, Verdict(None, error.kind, error.detail, 0.0)) for key in keys]
        undecided = f", {scores.unparsable} of {len(keys)} comparisons undecided" if scores.unparsable else ""
        return [
            (key, Verdict(float(reward), None, f"base {base:.3f}{undecided}", 0.0))
            for key, reward, base in zip(keys, scores.rewards_G, scores.base_G, strict=True)
        ]
