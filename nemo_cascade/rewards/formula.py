"""A GRPO stage's reward and advantage as text, for plans and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.verifiers import MIX, changed

# Zero comes before all shaping, the mask has its say where gradients are taken.
_OVERLONG = {"keep": ("", ""), "mask": ("", "truncated: no gradient"), "zero": ("truncated: r = 0", "")}


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


def stage_formula(stage: Mapping[str, Any]) -> str:
    """Return reward r and advantage A of a GRPO stage.

    Args:
        stage: the stage's configuration as a dictionary.
    """
    shaping, advantage = stage["shaping"], stage["advantage"]
    first, *others = stage["tasks"].values()
    parts = [f"r = {reward_formula(first['reward'])}"]
    parts[0] += "".join(f", of {task['domain']} {reward_formula(task['reward'])}" for task in others)
    failed, masked = _OVERLONG[stage["overlong"]]
    parts.append(failed)
    if shaping["combine"] == "preference":
        parts.append(f"r = 1 + sigmoid(z of {stage['reward_model']} in group) if r >= 1 else 0")
    if shaping["code_switch_margin"] is not None:
        parts.append(f"code switch: r = batch minimum - {shaping['code_switch_margin']:g}")
    if shaping["bounded"]:
        parts.append("r = tanh((r - group mean) / group std)")
    parts.append(masked)
    baseline = "group mean" if advantage["baseline"] == "mean" else "mean of the others"
    spread = " / group std" if advantage["normalize_by_std"] else ""
    parts.append(f"A = {f'(r - {baseline})' if spread else f'r - {baseline}'}{spread}")
    return "; ".join(part for part in parts if part)
