"""The actors of one role: started together, called together, with a deadline on every wait.

A call ends in one of three ways: every member answered; a member failed, and its own typed error is raised; or the
deadline passed, and the error names the method and the members that said nothing. It never hangs.
"""

import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from nemo_cascade.actors.actor import MemberInfo
from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.last_words import last_words
from nemo_cascade.errors import ActorDiedError, CascadeError, DeadlineError

log = logging.getLogger(__name__)

# After the first failure the others may hang in a collective: they get this long to add their own.
ERROR_GRACE_S = 3.0
CLOSE_DEADLINE_S = 10.0
STACK_DUMP_S = 1.0


@dataclass(slots=True)
class Member:
    """One actor of a fleet."""

    name: str
    handle: Any
    info: MemberInfo | None = None


class Fleet:
    """Actors of one role.

    Args:
        cluster: where they live.
        role: `policy`, `rollout` or `reward`, as in messages.
        error: the type that failures without a type of their own become.
    """

    def __init__(self, cluster: Cluster, role: str, error: type[CascadeError]) -> None:
        self.cluster, self.role, self.error = cluster, role, error
        self.members: list[Member] = []
        self.broken: str | None = None

    def add(self, actor_class: Any, environment: dict[str, str], **options: Any) -> Member:
        """Create one more actor; `wait_until_up` waits for it."""
        name = f"{self.role}-{len(self.members)}"
        member = Member(name, self._create(actor_class, name, environment, options))
        self.members.append(member)
        return member

    def replace(self, index: int, actor_class: Any, environment: dict[str, str], **options: Any) -> Member:
        """Create an actor in the place of one that died."""
        name = self.members[index].name
        self._kill(self.members[index])
        self.members[index] = Member(name, self._create(actor_class, name, environment, options))
        return self.members[index]

    def _create(self, actor_class: Any, name: str, environment: dict[str, str], options: dict[str, Any]) -> Any:
        remote = ray.remote(actor_class)
        settings = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, **options}
        own: dict[str, str] = getattr(self.cluster.config.environment, self.role, {})
        settings["runtime_env"] = {"env_vars": environment | own}
        stacks = str(self.cluster.session / "stacks" / f"{name}.txt")
        return remote.options(**settings).remote(self.cluster.driver, name, stacks)

    def wait_until_up(self, members: Sequence[Member] | None = None) -> None:
        """Wait until actors answer.

        Raises:
            DeadlineError: some don't within cluster.actor_start_deadline_s.
            ActorDiedError: one died on the way.
        """
        members = self.members if members is None else members
        infos = self.call_on(members, "hello", deadline_s=self.cluster.config.actor_start_deadline_s)
        for member, info in zip(members, infos, strict=True):
            member.info = info

    def call(self, method: str, *args: Any, deadline_s: float) -> list[Any]:
        """Call a method on every member with the same arguments; return the answers in order.

        Raises:
            CascadeError: what a member raised.
            ActorDiedError: a member died.
            DeadlineError: some did not answer.
        """
        return self.call_on(self.members, method, *args, deadline_s=deadline_s)

    def call_on(self, members: Sequence[Member], method: str, *args: Any, deadline_s: float) -> list[Any]:
        """Call a method on some members. Raises as `call`."""
        self.check()
        refs = {m.name: getattr(m.handle, method).remote(*args) for m in members}
        return self.gather(refs, method, deadline_s)

    def check(self) -> None:
        """Refuse to go on with a fleet in which a call was lost.

        Raises:
            ActorDiedError: an earlier call failed in a way that leaves its members in unknown states.
        """
        if self.broken:
            raise ActorDiedError(f"the {self.role} actors can't be used any more", value=self.broken)

    def gather(self, refs: dict[str, Any], method: str, deadline_s: float) -> list[Any]:
        """Wait for the answers to one call, given as member name -> reference; return them in that order.

        Raises:
            As `call`.
        """
        names = {ref: name for name, ref in refs.items()}
        answers: dict[str, Any] = {}
        errors: dict[str, CascadeError] = {}
        end = time.monotonic() + deadline_s
        pending = list(refs.values())
        while pending and (left := end - time.monotonic()) > 0:
            done, pending = ray.wait(pending, num_returns=1, timeout=left)
            for ref in done:
                try:
                    answers[names[ref]] = ray.get(ref)
                except RayError as error:
                    errors[names[ref]] = self.typed(error, names[ref], method)
                    end = min(end, time.monotonic() + ERROR_GRACE_S)
        silent = [names[ref] for ref in pending]
        if silent:
            self.broken = f"{', '.join(silent)} never answered {method}"
        if errors:
            raise self._worst(errors, method)
        if silent:
            raise self.silence(silent, method, deadline_s)
        return [answers[name] for name in refs]

    def next_of(self, member: Member, stream: Any, method: str, end: float, deadline_s: float) -> Any | None:
        """Return the next reference of a streaming call, None at its end.

        Raises:
            ActorDiedError: the member died.
            DeadlineError: nothing came until `end`.
        """
        ready, _ = ray.wait([stream], num_returns=1, timeout=max(0.0, end - time.monotonic()), fetch_local=False)
        if not ready:
            self.broken = f"{member.name} never answered {method}"
            raise self.silence([member.name], method, deadline_s)
        try:
            return next(stream)
        except StopIteration:
            return None
        except RayError as error:
            raise self.typed(error, member.name, method) from None

    def value_of(self, member: Member, ref: Any, method: str) -> Any:
        """Return what a streaming call yielded, or raise what it raised, typed."""
        try:
            return ray.get(ref)
        except RayError as error:
            raise self.typed(error, member.name, method) from None

    def _worst(self, errors: dict[str, CascadeError], method: str) -> CascadeError:
        """Return the error that explains most: a member's death, else the first typed one."""
        dead = [e for e in errors.values() if isinstance(e, ActorDiedError)]
        if dead:
            self.broken = str(dead[0])
            return dead[0]
        first = next(iter(errors.values()))
        log.error("%s failed on %s: %s", method, ", ".join(errors), first)
        return first

    def typed(self, error: RayError, name: str, method: str) -> CascadeError:
        """Turn what Ray raises into this project's errors."""
        if isinstance(error, RayTaskError):
            cause = error.cause
            if isinstance(cause, CascadeError):
                return cause
            log.error("%s failed in %s:\n%s", name, method, error)
            failure = self.error(f"{name} failed in {method}", value=f"{type(cause).__name__}: {cause}")
            failure.__cause__ = error
            return failure
        if isinstance(error, RayActorError):
            return ActorDiedError(f"{name} died during {method}", value=_reason(error), mend=self._last_words(name))
        return self.error(f"{name} failed in {method}", value=f"{type(error).__name__}: {error}")

    def _last_words(self, name: str) -> str:
        """Return the end of what a dead actor wrote, on whatever node it died."""
        member = next(m for m in self.members if m.name == name)
        if member.info is None:
            return "it died before it was up: look at its log"
        return last_words(member.info, self.cluster.driver.machine)

    def silence(self, names: Sequence[str], method: str, deadline_s: float) -> DeadlineError:
        """Return the error for members that don't answer, with the stack of the first as far as it can be had."""
        stack = self._stack_of(next(m for m in self.members if m.name == names[0]))
        return DeadlineError(
            f"{', '.join(names)} of {len(self.members)} {self.role} actors did not answer {method}",
            limit=f"{deadline_s:g} s",
            mend=f"stack of {names[0]}:\n{stack}" if stack else "look at the actor's log",
        )

    def _stack_of(self, member: Member) -> str:
        """Have a silent actor on this machine write its Python stack; return the end of it."""
        if (
            member.info is None
            or not member.info.stacks
            or not self.cluster.driver.is_local
            or member.info.machine != self.cluster.driver.machine
        ):
            return ""
        try:
            os.kill(member.info.pid, signal.SIGUSR1)
        except ProcessLookupError:
            return ""
        time.sleep(STACK_DUMP_S)
        file = Path(member.info.stacks)
        return file.read_text(encoding="utf-8")[-2000:] if file.is_file() else ""

    def close(self) -> None:
        """Close and end every actor; bounded in time, whatever state they are in."""
        if not self.broken and self.members:
            refs = [m.handle.close.remote() for m in self.members]
            ray.wait(refs, num_returns=len(refs), timeout=CLOSE_DEADLINE_S)
        for member in self.members:
            self._kill(member)
        self.members = []

    def _kill(self, member: Member) -> None:
        try:
            ray.kill(member.handle, no_restart=True)
        except RayError:
            log.debug("%s was gone already", member.name)


def _reason(error: RayActorError) -> str:
    """Return Ray's account of a death in one line, without its advice."""
    text = " ".join(str(error).split())
    detail = text.rpartition("Worker exit type:")[2] or text
    return detail.partition("Some common causes")[0].strip()[:600]
