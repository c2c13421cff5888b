"""Rated replies: what is scored, what is rated, and what is refused."""

import numpy as np
import pytest

from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.data.ratings import build_rated_stores
from nemo_cascade.data.responses import ResponseSource
from nemo_cascade.errors import DataError
from nemo_cascade.losses.units import count_units

NAMES = ["quality", "helpfulness", "verbosity"]


def rated(i, reply="a reply", **ratings):
    turns = [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": reply}]
    return {"messages": turns, **ratings}


@pytest.fixture
def build(tokenizer, write_jsonl, tmp_path):
    def make(rows, held=None, **rules):
        held = held or [rated("x", helpfulness=1)]
        paths = {"path": write_jsonl(rows), "holdout_path": write_jsonl(held, "held.jsonl")}
        data = PairDataConfig(**paths, **rules)
        return build_rated_stores(data, NAMES, 128, tokenizer.folder, tmp_path / "cache")

    return make


def test_every_reply_is_marked_at_its_end_and_holds_its_ratings_or_that_there_are_none(build, tokenizer):
    rows = [rated(i, "word " * (i + 1), helpfulness=i % 5, verbosity=None if i % 2 else 2) for i in range(6)]
    rows[3]["quality"] = -100
    train, _ = build(rows)
    source = ResponseSource(train.folder, 4, 0, 128)
    batches = [b for rank in range(2) for b in source.micro_batches(0, rank, 2)]
    assert sum(count_units(b, "rating") for b in batches) == sum(2 - number % 2 for number in source.items(0))
    for batch in batches:
        for end in batch.cu_seqlens[1:] if batch.loss_mask.any() else ():
            assert batch.input_ids[end - 1] == tokenizer.end_id
            assert batch.loss_mask[end - 2] == 1
    assert np.isnan(train.values[:, 0]).all()
    assert train.values[:, 1].tolist() == [0, 1, 2, 3, 4, 0]


def test_helpsteer2s_columns_are_read_by_its_schema(build):
    row = {"prompt": "q", "response": "<think>\nhm\n</think>\nr", "helpfulness": 3, "verbosity": 1, "complexity": 2}
    held = [{"prompt": "other", "response": "r", "helpfulness": 3}]
    train, _ = build([row], held=held, schema="helpsteer2")
    assert np.nan_to_num(train.values, nan=-1).tolist() == [[-1.0, 3.0, 1.0]]


def test_rows_that_are_no_rated_replies_are_named(build):
    rows = [rated(0, helpfulness=1), rated(1), rated(2, helpfulness="good"), rated(3, helpfulness=1) | {"messages": []}]
    rows += [{**rated(4, helpfulness=1), "messages": rated(4)["messages"][:1]}]
    with pytest.raises(DataError, match="4 rows are no rated replies") as refused:
        build(rows)
    told = str(refused.value)
    assert "rows.jsonl:2: has none of quality, helpfulness, verbosity" in told
    assert "rows.jsonl:3: `helpfulness` is no number but 'good'" in told
    assert "rows.jsonl:5: doesn't end with an assistant's text" in told or "rows.jsonl:5" in told


def test_a_prompt_that_is_trained_on_can_measure_nothing(build):
    with pytest.raises(DataError, match="both trained on and held out"):
        build([rated(1, helpfulness=1)], held=[rated(1, "another", helpfulness=0)])
