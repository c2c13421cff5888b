import json

import pytest

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.config.stages.sft import SftStage
from nemo_cascade.config.stages.sft_data import SftDataConfig, SourceConfig
from nemo_cascade.data.chat.encode import load_tokenizer
from nemo_cascade.nano.tokenizer import train_nano_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_nano_tokenizer(["user assistant system You are a helpful and harmless assistant. think no"] * 5, folder)
    return load_tokenizer(folder)


@pytest.fixture
def write_jsonl(tmp_path):
    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return str(path)

    return write


def conversation(question="2+2", answer="4"):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def sft_stage(*paths, seq_length=128, source=None, **data):
    sources = [SourceConfig(path=p, **(source or {})) for p in paths]
    return SftStage(
        optimizer=OptimizerConfig(lr=1e-3),
        seq_length=seq_length,
        global_batch_size=4,
        data=SftDataConfig(sources=sources, **data),
    )
