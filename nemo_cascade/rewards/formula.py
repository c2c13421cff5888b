"""What a verifier's score is made of, as text."""

from collections.abc import Mapping
from typing import Any

from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.verifiers.kinds import MIX, changed


def reward_formula(reward: Mapping[str, Any]) -> str:
    """Return what a score is made of: a composition for `mix`, the verifier's name and settings for any other.

    Args:
        reward: a task's `reward` as a dictionary.
    """
    kind = reward["kind"]
    if kind != MIX:
        settings = ", ".join(f"{key}={value}" for key, value in flatten(changed(reward)).items())
        return f"{kind}({settings})" if settings else str(kind)
    body = " + ".join(f"{term.get('weight', 1.0):g} * {term['reward']['kind']}" for term in reward.get("terms", ()))
    if clip := reward.get("clip"):
        body = f"clip({body}, {clip[0]:g}, {clip[1]:g})"
    for gate in reversed(reward.get("gates", ())):
        condition = f"{gate['reward']['kind']} >= {gate.get('at_least', 1.0):g}"
        body = f"if {condition} then {body} else {gate.get('otherwise', 0.0):g}"
    return body
