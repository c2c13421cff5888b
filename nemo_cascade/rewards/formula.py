"""What a verifier's score is made of, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.verifiers import changed


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
