"""A load of mixed samples for the verifier pool, with hangs and kill -9 injected; what came of it is counted."""

import contextlib
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.evaluation_cost import cost_problem
from nemo_cascade.rewards.pool import VerifierPool
from nemo_cascade.rewards.registry import VERIFIERS
from nemo_cascade.rewards.response import Response

GOLDEN = Path(__file__).parents[2] / "golden" / "math_pairs.txt"
HANG_SHARE, KILL_SHARE = 0.02, 0.01
HANG_DEADLINE_S = 0.5
FIFTHS, LOOKS = 5, 6
HANGS = {"blocked": {"do": "sleep", "seconds": 3600}, "spinning": {"do": "hang"}}


def golden_pairs():
    """(gold, answer, score) of the golden set, without the bombs: the pool rules on them without work."""
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if line[:2] in ("= ", "! ")]
    rows = [(line + " ").split(" | ") for line in lines]
    pairs = [(gold.strip(), answer.strip(), float(sign.strip() == "=")) for sign, gold, answer in rows]
    return [pair for pair in pairs if pair[1] and cost_problem(pair[1], pair[0]) is None]


def make_samples(count):
    """(verifier, record, text, score due): half are real math, a quarter real instruction checks."""
    pairs, samples = golden_pairs(), []
    for index in range(count):
        if index % 2 == 0:
            gold, answer, due = pairs[index // 2 % len(pairs)]
            samples.append(("math", {"answer": gold}, f"<think>{index}</think>\\boxed{{{answer}}}", due))
        elif index % 4 == 1:
            row = {"instruction": {"kind": "exact", "expected": "yes"}}
            samples.append(("instruction", row, "yes" if index % 8 == 1 else "no", float(index % 8 == 1)))
        else:
            samples.append(("probe", {"score": index / 10}, "", index / 10))
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
    stats: dict = field(default_factory=dict)
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


def run_load(samples, *, kill_share=0.0, **settings):
    """Judge samples on two workers, kill a random one for every so many handed in."""
    config = RewardConfig(
        workers=2,
        deadlines={"hanging": HANG_DEADLINE_S},
        max_pending=256,
        recycle_after=400,
        crash_budget=1000,
        slow_s=60,
        **settings,
    )
    load = Load(outcomes=[None] * len(samples))
    generator, every = random.Random(1), round(1 / kill_share) if kill_share else len(samples) + 1
    look_every, looks = max(1, len(samples) // (FIFTHS * LOOKS)), []
    probes = {"probe": "probe_verifiers:Probe", "hanging": "probe_verifiers:Probe"}
    with VerifierPool(config, {**VERIFIERS, **probes}) as pool:
        pool.self_test(["math", "instruction", "probe", "hanging"])
        [nursery] = [p for p in psutil.Process().children() if "nemo_cascade.rewards.nursery" in p.cmdline()]
        start = time.perf_counter()
        for index, (verifier, record, text, _) in enumerate(samples, 1):
            pool.submit(index - 1, verifier, record, Response(text))
            _note(load, pool.collect(0.0))
            if index % every == 0:
                load.kills += _kill_one(nursery, generator)
            if index % look_every == 0:
                looks.append(_private_mib(nursery))
        _note(load, pool.drain())
        load.seconds = time.perf_counter() - start
        load.stats = pool.stats()
    load.memory_mib = [statistics.median(looks[fifth * LOOKS : (fifth + 1) * LOOKS]) for fifth in range(FIFTHS)]
    return load


def _note(load, results):
    for key, verdict in results:
        if load.outcomes[key] is not None:
            load.answered[key] += 1
        load.outcomes[key] = (verdict.score, verdict.error)


def _kill_one(nursery, generator):
    """Kill a random worker, as the out-of-memory killer would; hung ones are among them."""
    workers = nursery.children()
    if not workers:
        return 0
    with contextlib.suppress(psutil.NoSuchProcess):  # it had just retired
        generator.choice(workers).kill()
        return 1
    return 0


def _private_mib(nursery):
    """Memory of this process, the nursery and its workers that isn't shared, MiB."""
    total = 0
    for process in (psutil.Process(os.getpid()), nursery, *nursery.children()):
        with contextlib.suppress(psutil.Error):  # it may have just ended
            total += process.memory_full_info().uss
    return total / 2**20
