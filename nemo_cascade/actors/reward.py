"""The verifiers: one actor per node, each with its own pool of killable processes."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import ray
from ray.exceptions import RayError

from nemo_cascade.actors.actor import Actor
from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet, Member
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.data.chat.encode import OPENING_TOKENS
from nemo_cascade.errors import DeadlineError, RewardError
from nemo_cascade.types import FinishReason, Int32, Judged, Place, Sample

Told = tuple[Place, tuple[str, dict[str, Any]], dict[str, Any], tuple[Int32, Int32], FinishReason]
"""What a pool is told of a sample: its place, verifier and settings, record, ends of context and response, and why it
ended."""

# Messages on their way to an actor before submit() waits for the oldest.
MAX_UNCONFIRMED = 64
SILENCE_MARGIN_S = 60.0
COLLECT_S = 2.0


class RewardActor(Actor):
    """A verifier pool's process; decodes responses."""

    pool: Any = None
    tokenizer: Any = None

    def start(self, config: RewardConfig, sandbox: SandboxConfig, tokenizer_path: str) -> None:
        """Start the pool and load the tokenizer."""
        from nemo_cascade.data.chat.encode import load_tokenizer
        from nemo_cascade.rewards.pool.pool import VerifierPool

        self.tokenizer = load_tokenizer(tokenizer_path)
        self.pool = VerifierPool(config, sandbox=sandbox)

    def submit(self, samples: list[Told]) -> None:
        """Hand responses to their verifiers."""
        from nemo_cascade.data.chat.encode import response_text
        from nemo_cascade.rewards.response import Response

        for place, (verifier, settings), record, (context_end, response_ids), reason in samples:
            text = response_text(self.tokenizer, response_ids, context_end)
            self.pool.submit(place, verifier, record, Response(text, response_ids, reason), settings)

    def collect(self, timeout_s: float) -> list[Judged]:
        """Return what is ready."""
        results: list[Judged] = self.pool.collect(timeout_s)
        return results

    def self_test(self, names: list[str], settings: dict[str, Any]) -> None:
        """Run golden cases."""
        self.pool.self_test(names, settings)

    def close(self) -> None:
        """End the pool's processes."""
        if self.pool is not None:
            self.pool.close()


class RewardGroup:
    """All verifier pools; they judge each sample for itself.

    Args:
        cluster: where they live.
        config: pool settings.
        tokenizer_path: HF folder whose tokenizer decodes responses.
        sandbox: how verifiers run programs; none: the defaults.

    Raises:
        CascadeError: an actor does not come up.
    """

    by_group: ClassVar[bool] = False

    def __init__(
        self, cluster: Cluster, config: RewardConfig, tokenizer_path: str, sandbox: SandboxConfig | None = None
    ) -> None:
        self.cluster, self.config = cluster, config
        self._fleet = Fleet(cluster, "reward", RewardError)
        self._outstanding = 0
        self._heard = time.monotonic()
        self._turn = 0
        self._unconfirmed: dict[Any, tuple[Member, int]] = {}
        self._deadline = cluster.config.actor_start_deadline_s
        for _ in range(cluster.config.num_nodes):
            self._fleet.add(RewardActor, cluster.environment(1), scheduling_strategy="SPREAD")
        self._fleet.wait_until_up()
        self._fleet.call("start", config, sandbox or SandboxConfig(), tokenizer_path, deadline_s=self._deadline)

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors (their verifier processes are below them)."""
        return [m.info.pid for m in self._fleet.members if m.info is not None]

    def submit(self, samples: Sequence[Sample]) -> None:
        """Hand in samples; each one's verdict comes back with its place. Waits while too many are in flight.

        Raises:
            RewardError: an earlier submission was refused.
            DeadlineError: the verifiers don't take any more.
        """
        self._fleet.check()
        members = self._fleet.members
        told: list[Told] = [
            (
                trajectory.place,
                (task.verifier, dict(task.settings)),
                dict(task.record),
                (trajectory.context_ids[-OPENING_TOKENS:], trajectory.response_ids),
                trajectory.finish_reason,
            )
            for task, trajectory in samples
        ]
        for place, member in enumerate(members):
            if share := told[(place - self._turn) % len(members) :: len(members)]:
                self._unconfirmed[member.handle.submit.remote(share)] = member, len(share)
        self._turn += len(told)
        self._heard = self._heard if self._outstanding else time.monotonic()
        self._outstanding += len(told)
        self._confirm(MAX_UNCONFIRMED)

    def collect(self, timeout_s: float = 0.0) -> list[Judged]:
        """Return verdicts that are ready, waiting up to `timeout_s` for the first.

        Raises:
            DeadlineError: no verdict came for longer than a verifier may take.
            RewardError: a submission was refused, or the pool broke.
        """
        self._confirm(MAX_UNCONFIRMED)
        if not self._outstanding:
            return []
        answers = self._fleet.call("collect", timeout_s, deadline_s=timeout_s + self._silence_s)
        results = [result for answer in answers for result in answer]
        self._outstanding -= len(results)
        if results:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > self._silence_s:
            raise DeadlineError(
                f"{self._outstanding} verdicts never came",
                limit=f"{self._silence_s:g} s without one",
                mend="look at the reward actors' logs",
            )
        return results

    def drain(self) -> list[Judged]:
        """Wait for all verdicts in flight and return them.

        Raises:
            DeadlineError: no verdict came for longer than a verifier may take.
            RewardError: a submission was refused, or the pool broke.
        """
        self._confirm(0)
        results: list[Judged] = []
        while self._outstanding:
            results += self.collect(COLLECT_S)
        return results

    def self_test(self, names: list[str], settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Run the golden cases of verifiers, each of them with these settings, on every node.

        Raises:
            RewardError: lists the cases that failed.
        """
        self._fleet.call("self_test", names, dict(settings), deadline_s=self._deadline)

    def close(self) -> None:
        """End all pools."""
        self._fleet.close()

    @property
    def _silence_s(self) -> float:
        """Longest time without a verdict while some are in flight: each takes its own deadline at most."""
        return max(self.config.deadline_s, *self.config.deadlines.values(), 0.0) * 2 + SILENCE_MARGIN_S

    def _confirm(self, leave: int) -> None:
        """Wait until at most `leave` submissions are unconfirmed; raise what a submission raised."""
        while self._unconfirmed:
            wait = len(self._unconfirmed) > leave
            done, _ = ray.wait(list(self._unconfirmed), num_returns=1, timeout=self._silence_s if wait else 0)
            if not done and wait:
                member, _ = next(iter(self._unconfirmed.values()))
                raise self._fleet.silence([member.name], "submit", self._silence_s)
            if not done:
                return
            for ref in done:
                member, count = self._unconfirmed.pop(ref)
                try:
                    ray.get(ref)
                except RayError as error:
                    self._outstanding -= count
                    raise self._fleet.typed(error, member.name, "submit") from None
