"""One vLLM engine: token ids in; token ids, log-probs, finish reason and weight version out.

The engine runs inside this process and is stepped by hand. All requests of a generation are added before the first
step, each with a seed of its own, and the prefix cache starts empty; so the same weights, prompts and seed give the
same bits, whatever the engine did before. The samples of a prompt share its prefix through vLLM's prefix cache.
"""

import logging
import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig
from nemo_cascade.data.chat.end_of_turn import stop_token_ids
from nemo_cascade.errors import DeadlineError, RolloutError, WeightSyncError
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.rules import fp32_names, tied_names
from nemo_cascade.rollout.buckets import DTYPES, OpenBucket, SyncSummary, WeightBucket
from nemo_cascade.rollout.environment import Device
from nemo_cascade.rollout.held_weights import SentWeight, check_held
from nemo_cascade.rollout.manifest import WeightManifest
from nemo_cascade.rollout.partial import sampled_so_far
from nemo_cascade.rollout.sampling import check_questions, request_seed, sampling_params
from nemo_cascade.rollout.starting import start_engine
from nemo_cascade.rollout.thinking import Draft, Stretch, Thoughts
from nemo_cascade.rollout.weight_sync import SyncPhase, SyncState
from nemo_cascade.types import FinishReason, Float32, Int32, Place, Question, RoutedExperts, Trajectory

log = logging.getLogger(__name__)


class RolloutWorker:
    """One vLLM engine, without Ray.

    Args:
        model_path: HF folder: config, safetensors, tokenizer.
        config: engine settings.
        seed: seeds vLLM itself; sampling has its own seeds.
        threads: CPU threads.
        device: cpu or gpu.
        family: of the model, where its config.json doesn't say it.
        routed_experts: tell with every answer which experts its tokens went to.

    Attributes:
        start_seconds: what starting took, importing vLLM included.
        stop_ids: token ids that end a response.

    Raises:
        RolloutError: the folder has no end-of-turn token, or vLLM can't run the model, or tell its experts.
        RuntimeUnavailableError: no vLLM for the device.
    """

    def __init__(
        self,
        *,
        model_path: str,
        config: RolloutConfig,
        seed: int,
        threads: int,
        device: Device,
        family: str | None = None,
        routed_experts: bool = False,
    ) -> None:
        self.config, self.model_path = config, Path(model_path)
        self._version = 0
        self._pending_version = 0
        self.stop_ids = stop_token_ids(self.model_path)
        self._arch = read_architecture(self.model_path, family)
        self._tells_experts = routed_experts
        if routed_experts and self._arch.experts is None:
            mend = "set router_replay.enabled=false"
            raise RolloutError("a model without experts can't tell them", value=self.model_path, mend=mend)
        self._manifest = WeightManifest.of_folder(self.model_path, fp32_names(self._arch))
        self._state = SyncState(config.weight_sync.deadline_s)
        self._received: set[str] = set()
        self._buckets: list[WeightBucket] = []
        self._transfer_open = False
        self._under_way: dict[str, Stretch] = {}
        self._taken_back: list[Stretch] = []
        self._thoughts: Thoughts | None = None
        started = time.monotonic()
        self._engine = start_engine(self.model_path, self._arch, config, seed, threads, device)
        self._warm_up()
        if routed_experts and self._arch.experts is not None:
            self._call("record_experts", self._arch.expert_layers, self._arch.experts.chosen)
        self.start_seconds = time.monotonic() - started

    @property
    def version(self) -> int:
        """The weight version that the engine holds: 0 for the folder it was started from."""
        return self._version

    @property
    def phase(self) -> SyncPhase:
        """Where the engine stands in a weight hand-over."""
        return self._state.phase

    def generate(self, questions: list[Question], sampling: SamplingConfig, seed: int) -> Iterator[list[Trajectory]]:
        """Sample all answers to each question; yield those that end together, step by step, each of one turn.

        The result is a pure function of weights and arguments, bit for bit. Leaving the iterator early aborts what is
        still running.

        Args:
            questions: no answer asked for twice; the same question in another list may give other bits (other batches
                round differently).
            sampling: temperature 0 is greedy; the log-probs are then those of temperature 1.
            seed: of this generation.

        Raises:
            RolloutError: a question too long for max_model_len, an answer asked for twice, or an engine that returned
                what it was not asked for.
            DeadlineError: not done within generate_deadline_s.
            WeightSyncError: the engine is in the middle of a weight hand-over.
        """
        self._state.require(SyncPhase.GENERATING, "generate")
        if self._engine.has_unfinished_requests():
            raise RolloutError("the engine is still busy with another generation")
        check_questions(questions, sampling.max_tokens, self.config.max_model_len, self._arch.vocab_size)
        drafts = [
            Draft(f"{index}/{sample}", question, sample, seed)
            for index, question in enumerate(questions)
            for sample in question.samples
        ]
        return self._generate(drafts, sampling)

    def _generate(self, drafts: list[Draft], sampling: SamplingConfig) -> Iterator[list[Trajectory]]:
        self._empty_prefix_cache()
        thoughts = self._thoughts_of(sampling)
        waiting: dict[str, Stretch] = {}
        try:
            for draft in drafts:
                self._ask(thoughts.first(draft), sampling, waiting)
            deadline = time.monotonic() + self.config.generate_deadline_s
            while waiting:
                if ended := self._go_on(sampling, waiting, deadline):
                    yield ended
        finally:
            if waiting:
                self._engine.abort_request(sorted(waiting))

    def advance(
        self, asked: list[tuple[Question, int]], sampling: SamplingConfig, patience_s: float, first: bool
    ) -> list[Trajectory]:
        """Take up questions, and go on with all that are under way until an answer ends, or for a while.

        So questions may keep coming, those of conversations that don't wait for each other, until `end_turns`. What an
        answer is depends on its own question and seed, but for the rounding of the batch that it stands in.

        Args:
            asked: questions, and the seed of each one's generation; none of their answers is under way.
            sampling: how answers are drawn.
            patience_s: return without an answer after so long.
            first: of these calls.

        Raises:
            As `generate`.
        """
        self._state.require(SyncPhase.GENERATING, "generate")
        if first and self._engine.has_unfinished_requests():
            raise RolloutError("the engine is still busy with another generation")
        if first:
            self._empty_prefix_cache()
        check_questions([q for q, _ in asked], sampling.max_tokens, self.config.max_model_len, self._arch.vocab_size)
        taken_back, self._taken_back = self._taken_back, []
        for stretch in taken_back:
            self._ask(stretch, sampling, self._under_way)
        thoughts, under_way = self._thoughts_of(sampling), {stretch.draft.key for stretch in self._under_way.values()}
        for question, seed in asked:
            for sample in question.samples:
                key = f"{question.task_id}/{sample}"
                if key in under_way:
                    raise RolloutError("a sample is asked while it answers", value=key)
                self._ask(thoughts.first(Draft(key, question, sample, seed)), sampling, self._under_way)
        begun = time.monotonic()
        while self._under_way:
            ended = self._go_on(sampling, self._under_way, begun + self.config.generate_deadline_s)
            if ended or time.monotonic() > begun + patience_s:
                return ended
        return []

    def take_back(self) -> None:
        """Take what is under way out of vLLM, with what was sampled of it; the next `advance` goes on with it.

        Meanwhile the engine is free for new weights or another generation. What goes on is read anew, so that all that
        is sampled from there on is the new weights' alone.
        """
        completions = sampled_so_far(self._engine)
        for key, stretch in self._under_way.items():
            ids, logprobs = self._sampled(stretch, completions[key])
            self._taken_back.append(stretch.taken_back(ids, logprobs, self._version))
        self.end_turns(list(self._under_way.values()))

    def give_up(self, places: Collection[Place]) -> int:
        """Give up answers that are under way or taken back; return how many tokens they had."""
        given_up = set(places)

        def ours(stretch: Stretch) -> bool:
            return (stretch.draft.question.task_id, stretch.draft.sample) in given_up

        lost = sum(len(stretch.draft.token_ids) for stretch in self._taken_back if ours(stretch))
        self._taken_back = [stretch for stretch in self._taken_back if not ours(stretch)]
        under_way = [stretch for stretch in self._under_way.values() if ours(stretch)]
        if under_way:
            completions = sampled_so_far(self._engine)
            lost += sum(len(s.draft.token_ids) + len(completions[s.key].token_ids) for s in under_way)
            self.end_turns(under_way)
        return lost

    def end_turns(self, stretches: Sequence[Stretch] | None = None) -> None:
        """Give up what is under way; None: all of it, and what was taken back."""
        if stretches is None:
            self._taken_back, stretches = [], list(self._under_way.values())
        if keys := sorted(stretch.key for stretch in stretches):
            self._engine.abort_request(keys)
            for key in keys:
                del self._under_way[key]

    def _thoughts_of(self, sampling: SamplingConfig) -> Thoughts:
        if self._thoughts is None or self._thoughts.sampling != sampling:
            self._thoughts = Thoughts(sampling, self.model_path)
        return self._thoughts

    def _ask(self, stretch: Stretch, sampling: SamplingConfig, waiting: dict[str, Stretch]) -> None:
        """Hand a stretch of an answer to the engine."""
        draft, ends = stretch.draft, [*self.stop_ids, *stretch.stops]
        drawn = replace(sampling, max_tokens=stretch.max_tokens)
        params = sampling_params(drawn, request_seed(draft.seed, stretch.place, draft.sample), ends)
        name = self._engine.add_request(stretch.key, {"prompt_token_ids": draft.context}, params)
        waiting[stretch.key] = replace(stretch, request=name)

    def _go_on(self, sampling: SamplingConfig, waiting: dict[str, Stretch], deadline: float) -> list[Trajectory]:
        """Take one engine step, ask for the next stretches of what it ended, and return the answers that are done."""
        thoughts, done = self._thoughts_of(sampling), []
        ended = [(waiting.pop(output.request_id), output.outputs[0]) for output in self._step(waiting, deadline)]
        for (stretch, completion), routed in zip(ended, self._routed_experts(ended), strict=True):
            draft = self._said(stretch, completion, routed)
            following = thoughts.next(draft, self.stop_ids)
            if isinstance(following, Draft):
                done.append(following.trajectory(self._version))
            else:
                self._ask(following, sampling, waiting)
        return done

    def _step(self, waiting: Collection[str], deadline: float) -> list[Any]:
        """Take one engine step; return the requests that it finished."""
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"generation took too long, {len(waiting)} rollouts are unfinished",
                limit=f"{self.config.generate_deadline_s:g} s",
                mend="lower sampling.max_tokens or the batch, or raise rollout.generate_deadline_s",
            )
        if not self._engine.has_unfinished_requests():
            raise RolloutError("the engine lost requests", value=f"{len(waiting)} never finished")
        return [output for output in self._engine.step() if output.finished]

    def _routed_experts(self, ended: list[tuple[Stretch, Any]]) -> list[RoutedExperts] | list[None]:
        """Return the experts of what ended in this very step: with the next one its blocks are another request's."""
        if not self._tells_experts or not ended:
            return [None] * len(ended)
        read = [(s.request, len(s.draft.context) + len(completion.token_ids) - 1) for s, completion in ended]
        routed: list[RoutedExperts] = self._call("routed_experts", read)[0]
        return routed

    def _said(self, stretch: Stretch, completion: Any, routed: RoutedExperts | None) -> Draft:
        """Return the draft with the stretch that the engine sampled."""
        name = stretch.name
        if completion.finish_reason not in list(FinishReason):
            raise RolloutError(f"{name}: the engine gave up", value=f"finish reason {completion.finish_reason}")
        reason = FinishReason(completion.finish_reason)
        ids, logprobs = self._sampled(stretch, completion)
        if ids.size == 0:
            raise RolloutError(f"{name}: the engine ended an answer without a token")
        ends = (*self.stop_ids, *stretch.stops)
        if (reason is FinishReason.STOP) != (int(ids[-1]) in ends):
            raise RolloutError(f"{name}: finish reason {reason} with last token {int(ids[-1])}", limit=ends)
        return stretch.draft.followed_by(ids, logprobs, reason, routed)

    def _sampled(self, stretch: Stretch, completion: Any) -> tuple[Int32, Float32]:
        """Return what the engine sampled of a stretch, and the log-probs."""
        ids = np.asarray(completion.token_ids, dtype=np.int32)
        logprobs = np.asarray(completion.logprobs.logprobs, dtype=np.float32)
        name = stretch.name
        if logprobs.shape != ids.shape:
            raise RolloutError(f"{name}: tokens and log-probs differ", value=f"{ids.size} and {logprobs.size}")
        if not np.isfinite(logprobs).all():
            raise RolloutError(
                f"{name}: the engine sampled from a broken distribution",
                value=f"{int((~np.isfinite(logprobs)).sum())} log-probs are not finite",
                mend="the weights hold NaN or infinite values: look at the trainer's grad norm",
            )
        return ids, logprobs

    def probe(self, sequences: list[Int32], temperature: float = 1.0) -> list[Float32]:
        """Score given tokens: log-prob of each token from the second on, under the present weights.

        Args:
            sequences: token ids, each of at least 2 tokens, shorter than max_model_len.
            temperature: divides the logits.

        Returns:
            For each sequence of n tokens, [n - 1] log-probs.

        Raises:
            RolloutError: a sequence of the wrong length.
        """
        self._state.require(SyncPhase.GENERATING, "probe")
        wrong = [s.size for s in sequences if not 2 <= s.size < self.config.max_model_len]
        if wrong:
            raise RolloutError(
                "probe sequences of the wrong length", value=wrong, limit=f"2..{self.config.max_model_len - 1} tokens"
            )
        self._call("set_probe_temperature", temperature)
        try:
            return self._score(sequences)
        finally:
            self._call("set_probe_temperature", 1.0)

    def _score(self, sequences: list[Int32]) -> list[Float32]:
        from vllm import SamplingParams

        self._empty_prefix_cache()
        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False, ignore_eos=True
        )
        for index, sequence in enumerate(sequences):
            self._engine.add_request(str(index), {"prompt_token_ids": sequence.tolist()}, params)
        waiting = {str(i) for i in range(len(sequences))}
        deadline = time.monotonic() + self.config.generate_deadline_s
        scores: dict[int, Float32] = {}
        while waiting:
            for output in self._step(waiting, deadline):
                waiting.discard(output.request_id)
                index = int(output.request_id)
                scores[index] = np.asarray(output.prompt_logprobs.logprobs, dtype=np.float32)
                if scores[index].size != sequences[index].size - 1:
                    raise RolloutError("the engine scored another number of tokens", value=scores[index].size)
        return [scores[i] for i in range(len(sequences))]

    def _warm_up(self) -> None:
        """Run the model once: what vLLM lacks a kernel for shows now, not in the first training step."""
        try:
            self._score([np.zeros(2, np.int32)])
        except (RuntimeError, NotImplementedError, ValueError) as error:
            self.close()
            raise RolloutError(
                "vLLM can't run this model on this device",
                value=f"{self.model_path}: {error}",
                mend="on CPU the head size must be one that vLLM's attention was built for (32, 64, 80, 96, ...)",
            ) from error

    def begin_update(self, version: int) -> None:
        """Stop sampling and get ready to receive weight version `version`.

        Raises:
            WeightSyncError: a hand-over is under way, a generation is running, or the version is not newer.
        """
        if self._engine.has_unfinished_requests():
            raise WeightSyncError("the engine is still generating", mend="finish or leave the generation first")
        if version <= self._version:
            raise WeightSyncError("weight versions only go up", value=version, limit=f"> {self._version}")
        self._state.move(SyncPhase.PAUSED)
        self._pending_version, self._received, self._buckets = version, set(), []
        self._state.move(SyncPhase.RECEIVING)
        with self._broken_on_failure():
            self._call("start_weight_update")
            self._transfer_open = True

    def receive(self, bucket: WeightBucket) -> None:
        """Load one bucket into the engine's model.

        Raises:
            WeightSyncError: unknown, misshapen or repeated weights; bytes that changed; no hand-over under way.
            DeadlineError: receiving lasts too long.
        """
        self._state.require(SyncPhase.RECEIVING, "receive weights")
        with self._broken_on_failure():
            self._manifest.check_bucket(bucket.entries, DTYPES[self.config.dtype], self._received)
            with OpenBucket(bucket) as opened:
                opened.check()
            self._call("update_weights", {"bucket": bucket})
        self._received.update(entry.name for entry in bucket.entries)
        self._buckets.append(bucket)

    def finish_update(self, sent: SyncSummary) -> None:
        """Check that everything arrived, forget what the old weights computed, and go back to sampling.

        Where the sender summed its weights, the engine's workers prove that they hold the same, bit by bit.

        Raises:
            WeightSyncError: weights are missing, or what arrived or is held is not what the sender sent.
        """
        self._state.move(SyncPhase.VERIFYING)
        with self._broken_on_failure():
            self._manifest.check_complete(self._received)
            got = SyncSummary.of(self._buckets)
            if got != sent:
                raise WeightSyncError("the engine received other weights than were sent", value=got, limit=sent)
            self._transfer_open = False
            self._call("finish_weight_update")
            stale = sorted({name for names in self._call("unwritten_parameters") for name in names})
            if stale:
                raise WeightSyncError(
                    f"{len(stale)} parameters of the engine kept their old values",
                    value=", ".join(stale[:5]),
                    mend="vLLM's load_weights of this architecture does not cover them: it can't be synchronised",
                )
            self._prove_held()
        self._empty_prefix_cache()
        self._version = self._pending_version
        self._state.move(SyncPhase.GENERATING)

    def _prove_held(self) -> None:
        sent = {
            entry.name: SentWeight(entry.shape[0] if entry.shape else 1, math.prod(entry.shape[1:]), entry.checksum)
            for bucket in self._buckets
            for entry in bucket.entries
            if entry.checksum is not None
        }
        if not sent:
            return
        check_held(sent, self._call("held_slices", self._arch), tied_names(self._arch))

    def abort_update(self) -> None:
        """Give up a hand-over that is under way: the engine is broken until it gets a complete one."""
        if self._state.phase in (SyncPhase.RECEIVING, SyncPhase.VERIFYING):
            self._break()

    def close(self) -> None:
        """Stop the engine and release its memory."""
        self._engine.engine_core.shutdown()

    def _call(self, method: str, *args: Any) -> list[Any]:
        """Call a method of vLLM's workers; return each worker's answer."""
        answers: list[Any] = self._engine.collective_rpc(method, args=args)
        return answers

    @contextmanager
    def _broken_on_failure(self) -> Iterator[None]:
        """Whatever goes wrong in a hand-over leaves the engine broken; vLLM's own complaints become ours."""
        try:
            yield
        except WeightSyncError:
            self._break()
            raise
        except (RuntimeError, ValueError, KeyError, AssertionError, TypeError) as error:
            self._transfer_open = False  # vLLM closes a transfer that fails
            self._break()
            raise WeightSyncError("vLLM refused the weights", value=f"{type(error).__name__}: {error}") from error

    def _break(self) -> None:
        self._state.move(SyncPhase.BROKEN)
        self._received, self._buckets = set(), []
        if self._transfer_open:
            self._transfer_open = False
            self._call("finish_weight_update")

    def _empty_prefix_cache(self) -> None:
        """Forget cached prefixes: they hold what other weights, or another generation, computed."""
        if not self._engine.reset_prefix_cache():
            raise RolloutError("the engine's prefix cache can't be reset while requests hold its blocks")
