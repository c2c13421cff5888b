"""The verifier pool: killable processes that turn responses into verdicts, each within its deadline."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from nemo_cascade.config.plugins import is_plugin
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.config.verifiers.kinds import golden_settings
from nemo_cascade.errors import ConfigError, RewardError
from nemo_cascade.rewards.pool.processes import Task
from nemo_cascade.rewards.pool.scheduler import Dispatcher, deadline_of
from nemo_cascade.rewards.pool.wire import pack_task
from nemo_cascade.rewards.registry import VERIFIERS, VerifierUse, verifier_class, verifier_path
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import Golden
from nemo_cascade.types import Verdict

_LOAD_DEADLINE_S = 180.0
_MAX_PENDING, _MAX_PENDING_BYTES = 4096, 1 << 30

Result = tuple[Any, Verdict]
_DEFAULTS: Mapping[str, Any] = {}


class VerifierPool:
    """Verify responses in worker processes.

    Each submitted sample gets exactly one verdict, in any order: a score, or an error of kind `timeout` (the deadline
    passed; its process was killed), `crash` (its processes kept dying), `memory`, `exception` (the verifier raised),
    or a kind that the verifier named. The same sample gets the same verdict in every process.

    Args:
        config: number of processes, deadline, budgets.
        verifiers: name -> `module:class`, in place of the shipped registry.
        sandbox: how verifiers run programs; none: the defaults.

    Raises:
        ConfigError: `deadlines` names verifiers that don't exist.
    """

    def __init__(
        self,
        config: RewardConfig,
        verifiers: Mapping[str, str] = VERIFIERS,
        sandbox: SandboxConfig | None = None,
    ) -> None:
        self._config = config
        self._verifiers = dict(verifiers)
        _refuse_unknown_names(config, {*VERIFIERS, *verifiers})
        self._lock = threading.Condition()
        self._results: deque[Result] = deque()
        self._loaded: set[VerifierUse] = set()
        self._ids = itertools.count()  # submit() may be called from several threads
        self._closed = False
        self._dispatcher = Dispatcher(config, sandbox or SandboxConfig(), self._verifiers, self._lock)
        self._dispatcher.start()

    def __enter__(self) -> VerifierPool:
        """Return the pool."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Close the pool."""
        self.close()

    def submit(
        self,
        key: Any,
        verifier_name: str,
        record: Mapping[str, Any],
        response: Response,
        settings: Mapping[str, Any] = _DEFAULTS,
    ) -> None:
        """Hand in one sample; waits while too many are in flight.

        Args:
            key: comes back with the verdict, as it is.
            verifier_name: a name in the registry. Its first use with these settings waits until it is loaded.
            record: the prompt's row.
            response: what to judge.
            settings: the verifier's, for this sample.

        Raises:
            RewardError: the verifier is unknown or can't be loaded, or the pool is closed or has failed.
        """
        self._submit(key, VerifierUse.of(verifier_name, settings), record, response, self._results)

    def collect(self, timeout_s: float) -> list[Result]:
        """Return the verdicts that are ready; wait up to `timeout_s` for the first, if any is in flight.

        Raises:
            RewardError: the pool is closed or has failed (crash budget).
        """
        with self._lock:
            self._wait(lambda: bool(self._results) or self._dispatcher.unfinished == 0, timeout_s)
            return self._take(self._results)

    def drain(self) -> list[Result]:
        """Wait for all samples in flight and return every verdict not yet collected.

        Raises:
            RewardError: the pool is closed or has failed (crash budget).
        """
        with self._lock:
            self._wait(lambda: self._dispatcher.unfinished == 0, None)
            return self._take(self._results)

    def self_test(self, names: Sequence[str], settings: Mapping[str, Any] = _DEFAULTS) -> None:
        """Load verifiers and run their golden cases through the worker processes.

        The cases are tried under the limits that are given and with all else at its default: what else is set may ask
        for other verdicts.

        Args:
            names: verifiers.
            settings: of each of them.

        Raises:
            RewardError: lists every case that got another verdict than it must.
        """
        sink: deque[Result] = deque()
        cases: list[tuple[VerifierUse, Golden]] = []
        wanted = self._with_parts([VerifierUse.of(name, settings) for name in names])
        for use in dict.fromkeys(VerifierUse.of(u.name, golden_settings(u.name, u.options)) for u in wanted):
            made = verifier_class(verifier_path(use.name, self._verifiers))
            cases += [(use, golden) for golden in getattr(made, "golden", ())]
        for use in dict.fromkeys([*wanted, *dict(cases)]):  # first, because each load replaces the workers
            self._ensure_loaded(use)
        for index, (use, golden) in enumerate(cases):
            self._submit(index, use, golden.record, Response(golden.text), sink)
        with self._lock:
            self._wait(lambda: len(sink) == len(cases), None)
        failures = []
        for index, verdict in sorted(sink, key=lambda result: int(result[0])):
            (name, _), golden = cases[index]
            if not _as_due(golden, verdict):
                due = f"error {golden.error}" if golden.error else f"score {golden.score:g}"
                got = f"error {verdict.error}" if verdict.error else f"score {verdict.score:g}"
                failures.append(f"\n  {name}: {golden.text[:120]!r} must get {due}, got {got} ({verdict.detail})")
        if failures:
            raise RewardError(
                f"{len(failures)} of {len(cases)} golden cases fail" + "".join(failures),
                mend="a verifier or what it runs on (library, sandbox, judge server) is broken: repair it first",
            )

    def close(self) -> None:
        """End every process. Samples in flight are dropped; may be called more than once."""
        self._closed = True
        self._dispatcher.stop()

    def _submit(
        self, key: Any, use: VerifierUse, record: Mapping[str, Any], response: Response, sink: deque[Result]
    ) -> None:
        verifier_path(use.name, self._verifiers)
        self._ensure_loaded(use)
        task_id = next(self._ids)
        frame = pack_task(task_id, use.label, record, response)
        task = Task(task_id, key, use.name, frame, sink, deadline_of(self._config, use.name))
        dispatcher = self._dispatcher
        with self._lock:
            self._wait(
                lambda: (
                    dispatcher.unfinished < _MAX_PENDING
                    and (dispatcher.unfinished == 0 or dispatcher.unfinished_bytes + len(frame) <= _MAX_PENDING_BYTES)
                ),
                None,
            )
            dispatcher.unfinished += 1
            dispatcher.unfinished_bytes += len(frame)
        dispatcher.post(task)

    def _with_parts(self, uses: Sequence[VerifierUse]) -> list[VerifierUse]:
        """Return the uses with those that a composed verifier makes of others."""
        result = list(uses)
        for use in uses:
            parts = getattr(verifier_class(verifier_path(use.name, self._verifiers)), "parts", None)
            if parts is not None:
                result += [VerifierUse.of(name, settings) for name, settings in parts(use.options)]
        return list(dict.fromkeys(result))

    def _ensure_loaded(self, use: VerifierUse) -> None:
        if use in self._loaded:
            return
        self._check()
        future: Future[None] = Future()
        self._dispatcher.post((use, future))
        future.result(_LOAD_DEADLINE_S)
        self._loaded.add(use)

    def _wait(self, ready: Any, timeout_s: float | None) -> None:
        """Wait with the lock held until `ready()`, failure or time-out; raises what broke the pool."""
        self._check()
        self._lock.wait_for(lambda: ready() or self._dispatcher.failure is not None, timeout_s)
        self._check()

    def _check(self) -> None:
        if self._dispatcher.failure is not None:
            raise self._dispatcher.failure.with_traceback(None)
        if self._closed:
            raise RewardError("the verifier pool is closed")

    @staticmethod
    def _take(results: deque[Result]) -> list[Result]:
        taken = list(results)
        results.clear()
        return taken


def _refuse_unknown_names(config: RewardConfig, known: set[str]) -> None:
    problems = [
        f"reward.deadlines names the unknown verifier {name!r}"
        for name in config.deadlines
        if name not in known and not is_plugin(name)
    ]
    if problems:
        raise ConfigError(problems)


def _as_due(golden: Golden, verdict: Verdict) -> bool:
    if golden.error is not None or verdict.score is None or golden.score is None:
        return verdict.error == golden.error
    return abs(verdict.score - golden.score) < 1e-9
