"""What the cases of data share."""

import json

import pytest

from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from tests.unit.data.conftest import sft_stage


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_nano_tokenizer(["user assistant system You are a helpful and harmless assistant."] * 5, folder)
    return folder


@pytest.fixture
def build(nano, tmp_path):
    def make(*paths, **data):
        return build_packed_store(sft_stage(*map(str, paths), seq_length=2048, **data), nano, tmp_path / "cache")

    return make


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
