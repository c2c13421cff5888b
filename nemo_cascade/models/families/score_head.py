"""How an HF config.json tells a reward model's outputs: `id2label` has their names, `score_weights` their weights.

transformers knows the first; the second is this project's own, for a score made of several outputs.
"""

from collections.abc import Mapping
from typing import Any

from nemo_cascade.models.architecture import ScoreHead
from nemo_cascade.models.families.fields import is_number

_WEIGHTS = "score_weights"


def read_score_head(config: Mapping[str, Any]) -> ScoreHead:
    """Return the head of a classifier's config, which has no `score_head_problems`."""
    labels, weights = config.get("id2label") or {}, config.get(_WEIGHTS)
    if weights is None:
        return ScoreHead((str(labels.get("0", "reward")),)) if labels else ScoreHead()
    return ScoreHead(tuple(str(labels[str(i)]) for i in range(len(weights))), tuple(float(w) for w in weights))


def write_score_head(head: ScoreHead) -> dict[str, Any]:
    """Return the fields that say so."""
    fields: dict[str, Any] = {
        "id2label": {str(i): name for i, name in enumerate(head.names)},
        "label2id": {name: i for i, name in enumerate(head.names)},
    }
    return fields if head.weights == (1.0,) else {**fields, _WEIGHTS: list(head.weights)}


def score_head_problems(config: Mapping[str, Any]) -> list[str]:
    """Return why a classifier's head is no reward model's."""
    # Two, where nothing is said: transformers' default.
    labels, weights = config.get("id2label") or {}, config.get(_WEIGHTS)
    number = int(config.get("num_labels") or len(labels or (0, 1)))
    if weights is None:
        wanted = f"a reward model has one output (num_labels=1), or {_WEIGHTS} for several"
        return [] if number == 1 else [f"id2label={config.get('id2label')!r} ({wanted})"]
    sound = isinstance(weights, list) and len(weights) == number and all(is_number(weight) for weight in weights)
    named = set(labels) == {str(i) for i in range(number)} and len(set(labels.values())) == number
    return [] if sound and named else [f"{_WEIGHTS}={weights!r} (a number for each of the {number} names in id2label)"]
