"""The warm interpreter: it forks confined children, tells when they end, and never sees a program or a test.

The host sends sources, tests and secrets straight to a child over the child's own socket. So nothing that one run was
told can be found in the memory of another: every child is a copy of a process that knew nothing.

Messages on the channel (one JSON object per packet):
    host -> zygote: {"spawn": count, "shape": [files_mib, compile]}, {"kill": pid},
                    {"watch": {"pid", "group", "memory_mib", "cpu_s", "waiting_s"}}
    zygote -> host: {"ready": python version}
                    {"spares": [pids], "shape": [files_mib, compile]} with the children's sockets attached
                    {"exit": pid, "status", "cpu_s", "group_s", "waited_s", "reason": str | null}
"""

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NamedTuple

from . import confine, job, landlock, seccomp
from .python_program import add_site_names, open_streams
from .rehearsal import rehearse
from .tree import Watch, Watched

_CHANNEL = 0
_CLOCK_TICKS_MS = 50
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Child(NamedTuple):
    """A forked child that hasn't been waited for."""

    pid: int
    pidfd: int
    folder: str | None
    uid: int | None


class Zygote:
    """The fork server.

    Args:
        channel: to the host.
        namespaces: children get their own process and mount namespace (else resource limits and seccomp only).
        change_user: children become another user than the zygote.
        folder: where children's folders are made, without namespaces.
        readable: what children may read, without namespaces.
    """

    def __init__(
        self, channel: socket.socket, namespaces: bool, change_user: bool, folder: str | None, readable: list[str]
    ) -> None:
        self.channel, self.namespaces, self.change_user = channel, namespaces, change_user
        self.folder, self.readable = folder, readable
        self.rules = _rules_of_the_cage() if namespaces else -1
        machine = os.uname().machine
        self.filters = {allow: seccomp.prepare(seccomp.program_filter(machine, allow)) for allow in (False, True)}
        self.fork_filter = seccomp.prepare(seccomp.fork_filter(machine))
        self.no_forks = seccomp.installing(self.fork_filter)
        self.confinements: dict[tuple[int, int | None], job.Confinement] = {}
        self.born = 0
        self.children: dict[int, Child] = {}
        self.watch = Watch()

    def serve(self) -> None:
        """Obey the host until it hangs up."""
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        self._send({"ready": sys.version.split()[0]}, [])
        while True:
            for descriptor, _ in poll.poll(_CLOCK_TICKS_MS if self.watch else None):
                if descriptor == self.channel.fileno():
                    packet = self.channel.recv(1 << 16)
                    if not packet:
                        return
                    self._obey(json.loads(packet), poll)
                else:
                    self._bury(descriptor, poll)
            for pid in self.watch.over_limit():
                self._kill(pid)

    def _send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        socket.send_fds(self.channel, [json.dumps(message).encode()], descriptors)

    def _obey(self, message: dict[str, Any], poll: select.poll) -> None:
        if "kill" in message:
            self._kill(message["kill"])
        elif "watch" in message:
            if message["watch"]["pid"] in self.children:
                self.watch.add(Watched(**message["watch"]))
        else:
            for child in self._spawn(message["spawn"], *message["shape"]):
                poll.register(child.pidfd, select.POLLIN)

    def _kill(self, pid: int) -> None:
        child = self.children.get(pid)
        if child is None:  # ended already; its pid may belong to nobody or somebody else
            return
        with contextlib.suppress(ProcessLookupError):
            if not self.namespaces:
                os.killpg(pid, signal.SIGKILL)
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def _spawn(self, count: int, files_mib: int, compile_job: bool) -> list[Child]:
        """Fork children that wait for their jobs, and send the host their sockets.

        After a fork the zygote pays for a copy of each page that it writes to again. So nothing but forks is done
        between the forks of one batch.
        """
        pairs = [socket.socketpair() for _ in range(count)]
        taken = {child.uid for child in self.children.values()}
        confinements = [self._confinement(files_mib, compile_job, taken) for _ in range(count)]
        clone, arguments = confine.forking(self.namespaces)
        gc.freeze()  # else what was made since start-up would be for each child's first collection to look through
        pids: list[int] = []
        pid = 1
        while len(pids) < count and pid > 0:
            pid = clone(*arguments)
            pids.append(pid)
        if pid == 0:
            try:
                job.become(pairs[len(pids) - 1][1], confinements[len(pids) - 1])
            finally:
                os._exit(job.EXIT_BROKEN)
        if pid < 0:
            raise confine.last_error("clone")
        children = [
            Child(pid, os.pidfd_open(pid), confinement.folder, confinement.uid)
            for pid, confinement in zip(pids, confinements, strict=True)
        ]
        self.children.update({child.pid: child for child in children})
        self._send({"spares": pids, "shape": [files_mib, compile_job]}, [ours.fileno() for ours, _ in pairs])
        for pair in pairs:
            for end in pair:
                end.close()
        for confinement in confinements:
            if confinement.rules not in (-1, self.rules):
                os.close(confinement.rules)
        return children

    def _confinement(self, files_mib: int, compile_job: bool, taken: set[int | None]) -> job.Confinement:
        """Shut a new child in; `taken`: the users of those that live, to which its own is added."""
        self.born += 1
        uid = self._unused_uid(taken)
        taken.add(uid)
        if not self.namespaces:
            folder = f"{self.folder}/{self.born}"
            os.mkdir(folder, 0o700)
            rules = _rules(self.readable, [folder, *_DEVICES])
            return job.Confinement(self._steps(uid, folder, compile_job, rules), uid, folder, rules, self.no_forks)
        known = self.confinements.get((files_mib, uid))
        if known is None:
            mounts = confine.private_mounts(files_mib, confine.FIRST_UID if uid is None else uid)
            steps = [*mounts, *self._steps(uid, "/tmp", allow_processes=True, rules=self.rules)]
            known = self.confinements[files_mib, uid] = job.Confinement(steps, uid, None, self.rules, self.no_forks)
        return known

    def _unused_uid(self, taken: set[int | None]) -> int | None:
        """Return the next user that no living child has: the kernel counts a user's processes together.

        A child that waits for a job of a shape which is no longer asked for may wait for long.
        """
        if not self.change_user:
            return None
        turns = (confine.FIRST_UID + (self.born + turn) % confine.UIDS for turn in range(confine.UIDS))
        return next((uid for uid in turns if uid not in taken), confine.FIRST_UID + self.born % confine.UIDS)

    def _steps(self, uid: int | None, folder: str, allow_processes: bool, rules: int) -> list[confine.Step]:
        last = [landlock.restricting(rules)] if rules >= 0 else []
        last.append(seccomp.installing(self.filters[allow_processes]))
        return [*confine.drop_privileges(uid, alone=self.namespaces), *confine.change_folder(folder), *last]

    def _bury(self, pidfd: int, poll: select.poll) -> None:
        child = next(c for c in self.children.values() if c.pidfd == pidfd)
        pid, status, usage = os.wait4(child.pid, 0)
        if not self.namespaces:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        poll.unregister(pidfd)
        os.close(pidfd)
        del self.children[pid]
        if child.folder is not None:
            _remove_tree(child.folder)
        run = self.watch.remove(pid)
        report = {
            "exit": pid,
            "status": status,
            "cpu_s": max(usage.ru_utime + usage.ru_stime, run.used_s if run else 0.0),
            "group_s": run.group_s if run else 0.0,
            "waited_s": run.waited_s if run else 0.0,
            "reason": run.reason if run else None,
        }
        self._send(report, [])


def _rules_of_the_cage() -> int:
    """Return rules that leave a run everything it sees but /proc, which tells of the host and holds knobs to turn."""
    seen = [f"/{name}" for name in os.listdir("/") if name not in ("proc", "dev", confine.BOX[1:])]
    return _rules(seen, ["/dev", confine.BOX])


def _rules(readable: list[str], writable: list[str]) -> int:
    """Return a descriptor of rules of file access, -1 where the kernel has none."""
    return landlock.ruleset(readable, writable) if readable and landlock.version() > 0 else -1


def _claim_channel() -> socket.socket:
    """Move the channel off the standard descriptors, which become the children's."""
    channel = socket.socket(fileno=fcntl.fcntl(_CHANNEL, fcntl.F_DUPFD_CLOEXEC, 3))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return channel


def _remove_tree(folder: str) -> None:
    from shutil import rmtree  # heavy, and not needed with namespaces

    rmtree(folder, ignore_errors=True)


def main(argv: list[str]) -> None:
    """Start: argv = [namespaces 0|1, change user 0|1, folder or empty, readable paths...]."""
    namespaces, change_user, folder = argv[0] == "1", argv[1] == "1", argv[2] or None
    sandbox_home, packages = sys.path[0], os.environ["PYTHONPATH"]
    channel = _claim_channel()
    os.environ.pop("LD_BIND_NOW", None)  # for this process only
    job.preload()
    confine.forswear_gains(change_user)
    confine.limit_what_is_alike_for_all()
    open_streams()
    add_site_names()
    zygote = Zygote(channel, namespaces, change_user, folder, readable=argv[3:])
    if namespaces:
        confine.make_mounts_private()
    else:
        confine.die_with_parent()
    # As `python main.py` has it: the program's folder first; then the packages, behind the standard library.
    library = [entry for entry in sys.path if entry not in (sandbox_home, packages)]
    sys.path[:] = ["" if folder else "/tmp", *library, packages]
    rehearse()
    seccomp.install(seccomp.prepare(seccomp.zygote_filter(os.uname().machine)))
    gc.collect()
    gc.disable()
    zygote.serve()
