"""The generative reward model in the loop: a prompt's responses are compared as soon as all of them are there.

The server does the work; this side only waits for it, so threads of the driver are enough.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from nemo_cascade.config.judge import GenRMConfig
from nemo_cascade.data.chat.encode import load_tokenizer, response_text
from nemo_cascade.errors import RewardError
from nemo_cascade.rewards.genrm import GenRM
from nemo_cascade.rewards.judge import JudgeClient
from nemo_cascade.rewards.judgement import FALLBACK
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError
from nemo_cascade.types import Judged, Sample, Verdict


class GenRMGroup:
    """Groups of responses on their way to the judge.

    Args:
        config: server and rules.
        tokenizer_path: HF folder whose tokenizer decodes responses.
        group_size: responses to each prompt, at least two.

    Raises:
        RewardError: one response can't be compared with others; no or a wrong URL; the key's variable isn't set.
    """

    by_group: ClassVar[bool] = True

    def __init__(self, config: GenRMConfig, tokenizer_path: Path, group_size: int) -> None:
        if group_size < 2:
            raise RewardError("a generative reward model compares responses", value=f"{group_size} per prompt", limit=2)
        self._tokenizer = load_tokenizer(tokenizer_path)
        sampling = {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens}
        client = JudgeClient(config.url, config.model, config.timeout_s, config.attempts, config.api_key_variable)
        sampling |= config.request
        self._model = GenRM(client, group_size, config.parse_attempts, sampling, config.pairs)
        self._threads = ThreadPoolExecutor(max(1, config.concurrency // group_size), "genrm")
        self._judged: list[Future[list[Judged]]] = []

    def submit(self, samples: Sequence[Sample]) -> None:
        """Hand in the samples of one task, in order; each one's verdict comes back with its place."""
        self._judged.append(self._threads.submit(self._judge, samples))

    def collect(self) -> list[Judged]:
        """Return the verdicts that are there."""
        done = [future for future in self._judged if future.done()]
        self._judged = [future for future in self._judged if future not in done]
        return [verdict for future in done for verdict in future.result()]

    def drain(self) -> list[Judged]:
        """Wait for all verdicts and return them; a request has its own time limit, so this ends."""
        judged, self._judged = self._judged, []
        return [verdict for future in judged for verdict in future.result()]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _judge(self, samples: Sequence[Sample]) -> list[Judged]:
        responses = [
            Response(response_text(self._tokenizer, a.response_ids, a.context_ids), a.response_ids, a.finish_reason)
            for _, a in samples
        ]
        places = [answer.place for _, answer in samples]
        try:
            scores = self._model.score_group(samples[0][0].record["messages"], responses)
        except VerifierError as error:
            return [(place, Verdict(None, error.kind, error.detail, 0.0)) for place in places]
        undecided = f"{FALLBACK} undecided: {scores.unparsable} of the group's" if scores.unparsable else ""
        return [
            (place, Verdict(float(reward), None, undecided, 0.0))
            for place, reward in zip(places, scores.rewards_G, strict=True)
        ]
