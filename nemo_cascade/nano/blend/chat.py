"""Nano open questions whose thoughts are too long: what is noted once would do, and is noted up to four times.

The answer is no better for that (`preference.quality` looks at it alone), so length control has something to shorten
that costs nothing.
"""

from random import Random
from typing import Any

from nemo_cascade.nano.preference import Topic, draw_answer, preference_prompt

_MOST_NOTES = 4


def wordy_sample(topic: Topic, rng: Random) -> dict[str, Any]:
    """Make a training conversation: a thought that notes the things once to four times, an answer of mixed quality."""
    note = f"Name {' '.join(topic.words)}"
    thought = "\n".join([note] * rng.randint(1, _MOST_NOTES))
    reply = {"role": "assistant", "content": draw_answer(topic, rng), "reasoning_content": thought}
    return {"messages": [*preference_prompt(topic)["messages"], reply]}
