"""A stage goes on from a checkpoint only where that holds all it needs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import CheckpointError
from nemo_cascade.stages.context import StageCheckpoints


class Policy:
    """Keep a state as a checkpoint does."""

    def save_checkpoint(self, folder, state):
        (Path(folder) / "state.json").write_text(json.dumps(state))

    def load_checkpoint(self, folder):
        return json.loads((Path(folder) / "state.json").read_text())


def checkpoints(folder):
    told = []
    context = SimpleNamespace(folder=folder, name="math_rl", record=lambda event, **details: told.append(event))
    return StageCheckpoints(context, compose(["cascade=nano"])[0].stages["math_rl"], 20), told


def test_a_checkpoint_of_an_older_form_is_refused_with_what_it_lacks(tmp_path):
    policy = Policy()
    kept, told = checkpoints(tmp_path)
    kept.save_if_due(policy, 10, {"step": 10, "cursor": 320})
    with pytest.raises(CheckpointError, match=r"lacks stream and history.*step_000010, which holds cursor, step"):
        kept.resume(policy, needs=("stream", "history"))
    assert told == []
    assert kept.resume(policy) == (10, {"step": 10, "cursor": 320})


def test_one_with_all_of_it_is_gone_on_from(tmp_path):
    policy = Policy()
    kept, told = checkpoints(tmp_path)
    state = {"step": 7, "stream": {}, "history": []}
    kept.save_if_due(policy, 7, state)
    assert kept.store.newest() is None
    kept.save_if_due(policy, 7, state, last=True)
    assert kept.resume(policy, needs=("stream", "history")) == (7, state)
    assert told == ["stage_resumed"]
