"""How busy an engine is while tools take log-normal times, with turns in step and with streaming turns.

The environments' processes and the scheduling are the real ones; the engine is a clock with slots. Where a tool takes
five times as long as an answer, the conversations with the slowest tools alone take about as long as all answers on all
slots: whatever is asked first, the last of them keep few slots busy.
"""

import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from nemo_cascade.config.environments import EnvironmentProcessesConfig
from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.environments.hosting.hosts import EnvironmentHosts
from nemo_cascade.rl.ask import play
from nemo_cascade.rl.episodes import Episodes
from nemo_cascade.types import EnvironmentUse, Task
from tests.support.slot_engine import SlotEngine

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

SCRIPTED = Path(__file__).parents[1] / "support" / "scripted_environments.py"
TURNS, SLOTS, ANSWER_S, SPREAD = 4, 8, 0.04, 1.0
# Conversations, and the median of a tool's times; 2,048 is a step of Nemotron 3 Nano's.
SCENES = ((512, ANSWER_S), (512, 5 * ANSWER_S), (2048, 5 * ANSWER_S))


def run(turns, count, tool_s):
    use = EnvironmentUse(f"{SCRIPTED}:Sleepy", {"seconds": tool_s, "turns": TURNS, "spread": SPREAD}, TURNS)
    tasks = [Task(str(i), "x", "math", np.array([5, 6], np.int32), {}, environment=use) for i in range(count)]
    engine, over = SlotEngine(SLOTS, ANSWER_S), []
    with EnvironmentHosts(EnvironmentProcessesConfig(threads=256), None, SandboxConfig()) as hosts:
        with Episodes(tasks[:2], 1, hosts, 100, 60.0):  # the processes are up
            pass
        with Episodes(tasks, 1, hosts, 100, 60.0) as episodes:
            begun = time.monotonic()
            play(episodes, engine, None, 0, over.extend, turns)
            took = time.monotonic() - begun
    assert len(over) == count
    assert {episode.trajectory.num_turns for episode in over} == {TURNS}
    return engine.busy_s / (SLOTS * took), took


def slowest_tools_s(count, tool_s):
    """How long the tools of the slowest conversation take."""
    return max(
        sum(tool_s * Random(f"{(str(i), 0)}/{turn}").lognormvariate(0.0, SPREAD) for turn in range(1, TURNS + 1))
        for i in range(count)
    )


def test_streaming_turns_keep_the_engine_busy_while_tools_are_slow():
    print(f"\n{TURNS} turns each; {SLOTS} slots, an answer {ANSWER_S * 1000:g} ms; tools log-normal, sigma {SPREAD:g}")
    shares = {}
    for count, tool_s in SCENES:
        tools, answers = slowest_tools_s(count, tool_s), count * TURNS * ANSWER_S / SLOTS
        print(f"{count} conversations, tools' median {tool_s * 1000:g} ms: {answers:.1f} s of answers on all slots,")
        print(f"  {tools:.1f} s of tools in the slowest conversation")
        for turns in ("lock_step", "streaming"):
            shares[turns, count, tool_s], took = run(turns, count, tool_s)
            print(f"  {turns:10s} {took:6.1f} s   slots taken {shares[turns, count, tool_s]:.0%}")
        assert shares["streaming", count, tool_s] > shares["lock_step", count, tool_s]
        if tools < answers / 2:
            assert shares["streaming", count, tool_s] >= 0.85
