"""Nano structured output: an object of JSON whose fields and their types are told.

What the values say is free. A careful reply fits the schema; a careless one has exactly one fault (a field too few, one
too many, or a value of another type), so a mixture of both leaves reinforcement learning something true to find.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.nano.math import Split, split_of

FIELDS = ("age", "color", "home", "name", "open", "price", "size", "title", "weight", "year")
TYPES = {"text": "string", "number": "integer", "yes/no": "boolean"}
_TEXTS = ("blue", "round")
_FAULTS = ("missing", "extra", "type")
# fmt: off
PHRASES = (
    "Give JSON:", *(f' "{name}":' for name in FIELDS), *(f" {kind}" for kind in TYPES),
    *(f' "{text}"' for text in _TEXTS), " true", " false",
)
# fmt: on
"""Texts that are one token each."""


@dataclass(frozen=True, slots=True)
class Form:
    """Fields that are asked for: (name, type of `TYPES`), in order."""

    fields: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """What is asked."""
        told = (f'"{name}": {kind}' for name, kind in self.fields)
        return f"Give JSON: {', '.join(told)}."

    @property
    def canonical(self) -> str:
        """The form's name, whichever field stands first."""
        return f"form {sorted(self.fields)}"

    @property
    def split(self) -> Split:
        """Whose form it is."""
        return split_of(self.canonical)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a reply."""
        return {"type": "object", "properties": {name: {"type": TYPES[kind]} for name, kind in self.fields}}


def draw_form(rng: Random, split: Split) -> Form:
    """Draw a form of a split, of two or three fields."""
    while True:
        names = rng.sample(FIELDS, rng.randint(2, 3))
        form = Form(tuple((name, rng.choice(list(TYPES))) for name in names))
        if form.split == split:
            return form


def structured_prompt(form: Form) -> dict[str, Any]:
    """Make a prompt row, with the schema for the verifier as NeMo Gym writes it."""
    return {
        "messages": [{"role": "user", "content": form.text}],
        "schema_str": json.dumps(form.schema),
        "schema_type": "json",
    }


def structured_sample(form: Form, rng: Random, careless_fraction: float) -> dict[str, Any]:
    """Make a training conversation; in the given share of cases the reply has one fault."""
    fields = list(form.fields)
    if rng.random() < careless_fraction:
        fault, place = rng.choice(_FAULTS), rng.randrange(len(fields))
        if fault == "missing":
            del fields[place]
        elif fault == "extra":
            name = rng.choice([name for name in FIELDS if name not in dict(fields)])
            fields.insert(place, (name, rng.choice(list(TYPES))))
        else:
            name, kind = fields[place]
            fields[place] = (name, rng.choice([other for other in TYPES if other != kind]))
    # With a space behind the brace a field is the same token in question and reply, first or not.
    filled = json.dumps({name: _value(rng, kind) for name, kind in fields})
    reply = f"{{ {filled[1:]}"
    return {"messages": [*structured_prompt(form)["messages"], {"role": "assistant", "content": reply}]}


def _value(rng: Random, kind: str) -> str | int | bool:
    drawn: dict[str, str | int | bool] = {
        "text": rng.choice(_TEXTS),
        "number": rng.randrange(10),
        "yes/no": rng.random() < 0.5,
    }
    return drawn[kind]
