"""A GRPO stage's loop with simulated engines: the product's own scheduling, and a trainer that only takes its time."""

import math
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace

import numpy as np

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.stages.generation import GenerationConfig
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.prompts.streams import open_stream
from nemo_cascade.rl.ask import Answerers
from nemo_cascade.rl.collect import Collector
from nemo_cascade.rl.continuous.generation import Generation
from nemo_cascade.rl.drawing.ahead import Ahead
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.types import Task
from tests.support.simulated_engines import InstantJudges


@dataclass
class Played:
    """What a stage came to: each step's batch, mean and largest age of its rollouts, seconds, and `engines.busy`."""

    drawn: list = field(default_factory=list)
    ages: list = field(default_factory=list)
    seconds: float = 0.0
    engines_busy: float = 0.0
    slots_busy: float = 0.0


@cache
def nano():
    return compose(["cascade=nano"])[0]


def stage_of(steps, prompts_per_step, samples, staleness, mode="batches", oversampling=1.0, leftovers="carry", **more):
    stage = nano().stages["math_rl"]
    rules = GenerationConfig(mode=mode, oversampling=oversampling, leftovers=leftovers)
    sizes = {"steps": steps, "prompts_per_step": prompts_per_step, "num_generations": samples}
    return replace(stage, **sizes, max_staleness=staleness, generation=rules, **more)


def tasks_of(count, use=None):
    more = {} if use is None else {"environment": use}
    return [Task(f"t{i}", "math", "math", np.array([i], np.int32), {}, **more) for i in range(count)]


def collector_of(stage, engines, tasks, judges=None, hosts=None, stream_state=None, turns="streaming"):
    config = replace(nano(), environments=replace(nano().environments, turns=turns))
    stream = open_stream(PromptSet(tasks), stage, config.seed, stream_state)
    return Collector(stream, Answerers(engines, judges or InstantJudges(), SimpleNamespace(), config, hosts), stage)


def play(stage, collector, train_s, sync_s=0.0, told=lambda played, generation: None):
    """Play all steps."""
    engines, played = collector.by.engines, Played()
    one = _play_continuous if stage.generation.mode == "continuous" else _play_batches
    one(stage, collector, train_s, sync_s, played, told)
    engines.idle_until(played.seconds)
    played.engines_busy, played.slots_busy = engines.busy
    return played


def _play_continuous(stage, collector, train_s, sync_s, played, told):
    engines, generation = collector.by.engines, Generation(collector, stage)
    for step in range(stage.steps):
        generation.pause(step)
        engines.idle_until(engines.clock + sync_s)
        engines.version = step
        generation.resume(step, stage)
        while (drawn := generation.take()) is None:
            generation.pump(math.inf)
        _see(played, drawn, step, stage)
        trained = engines.clock + train_s
        while engines.clock < trained:
            if not generation.pump(trained - engines.clock) and not generation.is_sampling:
                engines.idle_until(trained)
        told(played, generation)
    generation.pause(stage.steps)
    played.seconds = engines.clock
    generation.close()


def _play_batches(stage, collector, train_s, sync_s, played, told):
    engines, now, whole, collect = collector.by.engines, 0.0, {}, collector.collect

    def collected(step, *args):
        batch = collect(step, *args)
        whole[step] = engines.clock
        return batch

    collector.collect = collected
    with ExitStack() as stack:
        ahead = stack.enter_context(Ahead(collector, stage, lambda step: step, lambda member, version: None))
        for step in range(stage.steps):
            ahead.settle(step)
            now = max(now, engines.clock) + sync_s
            engines.idle_until(now)
            engines.version = step
            ahead.draw(step, lambda _: stage, PhaseTimer())
            drawn = ahead.take(step)
            _see(played, drawn, step, stage)
            now = max(now, whole[step]) + train_s
            told(played, None)
    played.seconds = max(now, engines.clock)


def _see(played, drawn, step, stage):
    played.drawn.append(drawn)
    played.ages.append(drawn.batch.check_ages(step, stage.max_staleness))
