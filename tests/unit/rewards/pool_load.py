"""A load of mixed samples for the verifier pool, with hangs and kill -9 injected; what came of it is counted."""

import contextlib
import os
import random
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import psutil

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.registry import VERIFIERS
from nemo_cascade.rewards.response import Response

HANG_SHARE, KILL_SHARE = 0.02, 0.01
HANG_DEADLINE_S = 0.5
FIFTHS, LOOKS = 5, 6
THOUGHT = "So the next step is to look at it once more. " * 200
HANGS = {"blocked": {"do": "sleep", "seconds": 3600}, "spinning": {"do": "hang"}}


def math_pair(number, attempt):
    """(gold, answer, score due): a reference of its own for each number, and a right or wrong answer to it."""
    a, b, right = number + 2, number % 7 + 2, attempt % 2 == 0
    off = 0 if right else attempt
    kind = number % 6
    if kind == 0:
        pair = f"(x+{a})^2", f"x^2+{2 * a}x+{a * a + off}"
    elif kind == 1:
        pair = rf"\frac{{{a}}}{{{b * 11}}}", rf"\frac{{{a * (attempt + 2) + off}}}{{{b * 11 * (attempt + 2)}}}"
    elif kind == 2:
        pair = f"({a}, {a + b}]", f"({a}, {a + b}{']' if right else ')'}"
    elif kind == 3:
        pair = rf"\{{{a}, {a + 1}, {-b}\}}", rf"\{{{-b}, {a + off}, {a + 1}\}}"
    elif kind == 4:
        pair = rf"{b}\sqrt{{{a * a * 3}}}", rf"{a * b + off}\sqrt{{3}}"
    else:
        pair = f"{a}.5", rf"\frac{{{2 * a + 1 + off}}}{{2}}"
    return *pair, float(right)


def instruction_pair(number):
    """(record, answer, score due): constraints of the IFEval taxonomy on an answer of 250 words."""
    names = ["punctuation:no_comma", "length_constraints:number_words", "length_constraints:number_sentences"]
    at_least = {"relation": "at least"}
    row = {
        "instruction_id_list": names,
        "kwargs": [{}, {**at_least, "num_words": 200}, {**at_least, "num_sentences": 20}],
    }
    good = number % 2 == 0
    sentences = [f"Word {number + n} of this answer stands in sentence {n} here." for n in range(25)]
    return row, " ".join(sentences) + ("" if good else " Well, almost."), float(good)


def make_samples(count):
    """(verifier, record, text, score due): five of eight are math, two are instructions, one tells only who it is.

    The math has eight responses to a prompt, as a GRPO step has: few answers come twice: no cache helps.
    """
    samples = []
    for index in range(count):
        if index % 8 == 7:
            samples.append(("probe", {"score": index / 10}, "", index / 10))
        elif index % 4 == 3 or index % 8 == 5:
            row, answer, due = instruction_pair(index // 8)
            samples.append(("instruction", row, f"<think>{THOUGHT}</think>{answer}", due))
        else:
            gold, answer, due = math_pair(index // 8, index % 8)
            samples.append(("math", {"answer": gold}, f"<think>{THOUGHT}</think>\\boxed{{{answer}}}", due))
    return samples


def with_hangs(samples, hang):
    """Put hangs in place of some samples; nothing but an error is due for them."""
    generator = random.Random(0)
    hanging = ("hanging", HANGS[hang], "", None)
    return [hanging if generator.random() < HANG_SHARE else sample for sample in samples]


@dataclass
class Load:
    """What came of a load."""

    seconds: float = 0.0
    outcomes: list = field(default_factory=list)  # by sample: (score, error)
    answered: Counter = field(default_factory=Counter)  # by sample, where it isn't once
    kills: int = 0
    memory_mib: list = field(default_factory=list)  # by fifth

    def wrong(self, samples):
        """Verdicts that must not be."""
        pairs = enumerate(zip(self.outcomes, samples, strict=True))
        return [
            (index, outcome)
            for index, (outcome, (_, _, _, due)) in pairs
            if (outcome[0] is not None and outcome[0] != due)
            or (due is None and outcome[1] not in ("timeout", "crash"))
        ]

    def unlucky(self, samples):
        """Samples with a score due that got an error: dropped, but never scored wrongly."""
        return sum(
            o[1] is not None and due is not None for o, (_, _, _, due) in zip(self.outcomes, samples, strict=True)
        )


def run_load(samples, *, kill_share=0.0, workers=2):
    """Judge samples, kill a random worker for every so many handed in."""
    config = RewardConfig(workers=workers, deadlines={"hanging": HANG_DEADLINE_S})
    load = Load(outcomes=[None] * len(samples))
    generator, every = random.Random(1), round(1 / kill_share) if kill_share else len(samples) + 1
    look_every, looks = max(1, len(samples) // (FIFTHS * LOOKS)), []
    probes = {"probe": "probe_verifiers:Probe", "hanging": "probe_verifiers:Probe"}
    with (
        mock.patch("nemo_cascade.rewards.pool.pool._MAX_PENDING", 256),  # so that kills come while verdicts are given
        mock.patch("nemo_cascade.rewards.pool.scheduler._CRASH_BUDGET", 1000),
        VerifierPool(config, {**VERIFIERS, **probes}) as pool,
    ):
        pool.self_test(["math", "instruction", "probe", "hanging"])
        [server] = [process.pid for process in fork_servers()]
        start = time.perf_counter()
        for index, (verifier, record, text, _) in enumerate(samples, 1):
            pool.submit(index - 1, verifier, record, Response(text))
            _note(load, pool.collect(0.0))
            if index % every == 0:
                load.kills += _kill_one(server, generator)
            if index % look_every == 0:
                looks.append(_resident_mib(server))
        _note(load, pool.drain())
        load.seconds = time.perf_counter() - start
    load.memory_mib = [statistics.median(looks[fifth * LOOKS : (fifth + 1) * LOOKS]) for fifth in range(FIFTHS)]
    return load


def fork_servers():
    """Return this process's fork servers; a child that has died and isn't waited for yet is none."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
            found += [child] if "nemo_cascade.rewards.pool.fork_server" in child.cmdline() else []
    return found


def _note(load, results):
    for key, verdict in results:
        if load.outcomes[key] is not None:
            load.answered[key] += 1
        load.outcomes[key] = (verdict.score, verdict.error)


def _kill_one(server, generator):
    """Kill a random worker, as the out-of-memory killer would; hung ones are among them."""
    workers = _workers(server)
    if not workers:
        return 0
    with contextlib.suppress(ProcessLookupError):  # it had just retired
        os.kill(generator.choice(workers), signal.SIGKILL)
        return 1
    return 0


def _workers(server):
    """Process ids; psutil would look through all processes of the machine, which takes CPU from what is measured."""
    return [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]


def _resident_mib(server):
    """Resident memory of this process, the fork server and the largest worker, MiB; the number of workers varies."""

    def of(pid):
        with contextlib.suppress(OSError):  # it may have just ended
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return 0.0

    return of(os.getpid()) + of(server) + max((of(pid) for pid in _workers(server)), default=0.0)
