import json

import pytest

from nemo_cascade.config.stages.rollout_rules import EndConfig
from nemo_cascade.rl.ending import End, Ending


def run(rules, steps, rows):
    """Return the ending and where it came, after feeding it rows of (reward, truncation rate)."""
    ending = Ending(rules, steps)
    for row in rows:
        if ending.reached:
            break
        ending.see(*row)
    return ending


def test_without_a_rule_a_stage_takes_all_its_steps():
    assert run(EndConfig(), 5, [(0.0, 0.0)] * 4).reached is None
    assert run(EndConfig(), 5, [(0.0, 0.0)] * 9).reached == End("steps", 5)


@pytest.mark.parametrize(("start", "change", "step"), [(0.4, -0.03125, 12), (0.025, 0.0125, 8)])
def test_the_truncation_rate_is_reached_from_either_side(start, change, step):
    rules = EndConfig(truncation_rate=0.1, window=2)
    end = run(rules, 100, [(0.5, start + i * change) for i in range(13)]).reached
    # The mean of the last two steps crosses a tenth, not the last step alone.
    assert (end.rule, end.step, end.limit) == ("truncation_rate", step, 0.1)
    assert end.value == pytest.approx(start + (step - 1.5) * change)


def test_no_rule_applies_before_min_steps_and_the_last_step_is_the_last():
    rules = EndConfig(truncation_rate=0.1, window=2, min_steps=6)
    assert run(rules, 100, [(0.5, 0.3), (0.5, 0.3), *[(0.5, 0.0)] * 20]).reached.step == 6
    assert run(rules, 4, [(0.5, 0.0)] * 20).reached == End("steps", 4)


def test_a_plateau_is_no_rise_of_the_mean_by_more_than_the_margin():
    rules = EndConfig(plateau_steps=3, plateau_margin=0.125, window=2)
    rewards = [0.0, 0.25, 0.5, 0.75, 0.75, 0.75, 0.75, 1.0]
    end = run(rules, 100, [(r, 0.0) for r in rewards]).reached
    # Means .125 .375 .625 .75 .75 .75: .625 -> .75 is within the margin, so three steps later it is over.
    assert end == End("plateau", 7, 0.75, 0.75)
    rising = [(i / 64, 0.0) for i in range(20)]
    assert run(EndConfig(plateau_steps=3, window=2), 20, rising).reached == End("steps", 20)


def test_a_resumed_ending_is_the_same_from_every_step():
    rules = EndConfig(truncation_rate=0.1, plateau_steps=6, window=3)
    rows = [(0.1 * (i % 7), 0.35 - 0.017 * i) for i in range(40)]
    whole = run(rules, 40, rows)
    assert whole.reached.rule == "plateau"
    for done in range(whole.reached.step + 1):
        resumed = Ending(rules, 40, json.loads(json.dumps(whole.history[:done])))
        for row in rows[done:]:
            if resumed.reached:
                break
            resumed.see(*row)
        assert (resumed.reached, resumed.history) == (whole.reached, whole.history)
