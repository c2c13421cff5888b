"""A GRPO stage's reward and advantage as text, for plans and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.verifiers import changed

# Zero comes before all shaping, the mask has its say where gradients are taken.
_OVERLONG = {"keep": ("", ""), "mask": ("", "truncated: no gradient"), "zero": ("truncated: r = 0", "")}


def verifier_formula(verifier: str, options: Mapping[str, Any]) -> str:
    """Return what a verifier's score is made of: a composition for `mix`, its name and settings for any other.

    Args:
        verifier: its name.
        options: its settings.
    """
    if verifier != "mix":
        settings = ", ".join(f"{key}={value}" for key, value in flatten(changed(verifier, options)).items())
        return f"{verifier}({settings})" if settings else verifier
    body = " + ".join(f"{term.get('weight', 1.0):g} * {term['verifier']}" for term in options.get("terms", ()))
    if clip := options.get("clip"):
        body = f"clip({body}, {clip[0]:g}, {clip[1]:g})"
    for gate in reversed(options.get("gates", ())):
        condition = f"{gate['verifier']} >= {gate.get('at_least', 1.0):g}"
        body = f"if {condition} then {body} else {gate.get('otherwise', 0.0):g}"
    return body


def stage_formula(stage: Mapping[str, Any]) -> str:
    """Return reward r and advantage A of a GRPO stage.

    Args:
        stage: the stage's configuration as a dictionary.
    """
    prompts, shaping, advantage = stage["prompts"], stage["shaping"], stage["advantage"]
    parts = [f"r = {verifier_formula(prompts['verifier'], prompts['reward'])}"]
    for more in stage.get("mixed_with", ()):
        parts[0] += f", of {more['domain']} {verifier_formula(more['verifier'], more['reward'])}"
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
