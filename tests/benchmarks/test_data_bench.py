"""Tokenising against datasets.map, the loader against the model, memory against the size of the input."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest

from nemo_cascade.config.logging import LoggingConfig
from nemo_cascade.config.stages.sft_data import SourceConfig
from nemo_cascade.data.batches import PackedSource
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.data.sft.tokenised import TokenisedSet, make_shards, plan_parts
from tests.support.real_text import functions
from tests.support.smol_tokenizer import smol_tokenizer
from tests.unit.data.conftest import sft_stage

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

CONVERSATIONS = 20_000
INPUT_GB = float(os.environ.get("BENCH_INPUT_GB", "2"))
SEQ_LENGTH = 16_384
# 6 FLOPs per parameter and token; eight H100s, 989 TFLOP/s each in bf16 without sparsity, 40 % of it used.
MODEL_TOKENS_PER_S = 8 * 989e12 * 0.40 / (6 * 8e9)

# ChatML as nemo_cascade renders it, for peers: generation blocks mark what is trained.
TEMPLATE = (
    "{{- '<|im_start|>system\\nYou are a helpful and harmless assistant.<|im_end|>\\n' }}{%- for m in messages %}"
    "{%- if m['role'] == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
    "{% generation %}{{- m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + ' /no_think<|im_end|>\\n' }}{%- endif %}"
    "{%- if m['role'] == 'assistant' and not loop.last %}{{- '\\n' }}{%- endif %}{%- endfor %}"
)


def conversation(function):
    turns = (
        ("user", f"Document this function.\n\n{function.signature}"),
        ("assistant", function.docstring.strip()),
        ("user", "Show its source."),
        ("assistant", textwrap.dedent(function.source[:8000]).strip()),
    )
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Real conversations on disk, and SmolLM2's tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    hf = smol_tokenizer(folder / "tokenizer")
    hf.chat_template = TEMPLATE
    documented = (
        f
        for f in functions("networkx", "scipy", "numpy", "sympy", "transformers", "torch", "ray")
        if f.docstring.strip()
    )
    rows = [conversation(f) for f in islice(documented, CONVERSATIONS)]
    assert len(rows) == CONVERSATIONS
    path = folder / "conversations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder, path, hf


def test_tokenising_against_datasets_map(prepared, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    folder, path, hf = prepared
    datasets.disable_progress_bars()
    dataset = datasets.load_dataset("json", data_files=str(path), cache_dir=str(folder / "hf"))["train"]

    def rendered(rows):
        out = hf.apply_chat_template(rows["messages"], return_dict=True, return_assistant_tokens_mask=True)
        return {"input_ids": out["input_ids"], "mask": out["assistant_masks"]}

    def theirs(batched):
        begin = time.process_time()
        made = dataset.map(rendered, batched=batched, remove_columns=dataset.column_names, load_from_cache_file=False)
        return time.process_time() - begin, made

    tokenizer = load_tokenizer(folder / "tokenizer")
    begin = time.process_time()
    parts = plan_parts([SourceConfig(path=str(path))], tokenizer)
    make_shards(parts, tokenizer, folder / "shards", 1, LoggingConfig())
    ours = time.process_time() - begin
    one_by_one, made = theirs(False)
    batched, _ = theirs(True)

    tokens = compare(TokenisedSet(parts, folder / "shards"), made)
    megabytes = path.stat().st_size / 1e6
    amount = f"{CONVERSATIONS:,} real conversations, {megabytes:.0f} MB, {tokens:,} tokens"
    print(f"\ntokenise, mask and store {amount}, on one core")
    for name, seconds in (
        ("nemo_cascade (hash, read, check, mask, store)", ours),
        ("datasets.map(apply_chat_template)", one_by_one),
        ("datasets.map(apply_chat_template, batched)", batched),
    ):
        rates = (
            f"{CONVERSATIONS / seconds:6.0f} samples/s {megabytes / seconds:6.2f} MB/s {tokens / seconds:9.0f} tok/s"
        )
        print(f"  {name:46s} {rates}  x{one_by_one / seconds:.2f}")
    assert one_by_one / ours > 2.5


def compare(ours, theirs):
    """Both made the same tokens and the same masks. Returns the tokens."""
    (shard,) = ours.shards
    tokens, mask = shard.tokens(), shard.mask()
    for sample, row in zip(ours.samples, theirs.with_format("numpy"), strict=True):
        cut = slice(sample["begin"], sample["begin"] + sample["length"])
        assert np.array_equal(tokens[cut], row["input_ids"])
        assert np.array_equal(mask[cut], row["mask"])
    return len(tokens)


def test_loader_against_the_model(prepared):
    folder, path, _ = prepared
    stage = sft_stage(str(path), seq_length=SEQ_LENGTH)
    store = build_packed_store(stage, folder / "tokenizer", folder / "cache")
    source = PackedSource(store.folder, global_batch_size=64, seed=0)
    source.store.verify()  # once per process; a run of hours doesn't feel it
    tokens, begin, step = 0, time.process_time(), 0
    while (seconds := time.process_time() - begin) < 3:
        tokens += sum(batch.num_tokens for batch in source.micro_batches(step, step % 8, 8))
        step += 1
    rate = tokens / seconds
    print(
        f"\nloader, one process of one rank, {len(store):,} packs of {SEQ_LENGTH:,}, fill {store.stats['fill']:.4f}\n"
        f"  an 8B model on 8 H100s: 8 x 989 TFLOP/s x 40 % / (6 x 8e9) = {MODEL_TOKENS_PER_S:,.0f} tokens/s\n"
        f"  the loader: {rate:,.0f} tokens/s = x{rate / MODEL_TOKENS_PER_S:.0f} what all eight take"
    )
    assert rate > 50 * MODEL_TOKENS_PER_S


BUILD = """
import sys
from nemo_cascade.data.sft.build import build_packed_store
from tests.unit.data.conftest import sft_stage
if __name__ == "__main__":
    stage = sft_stage(sys.argv[1], seq_length=16384, workers=2)
    build_packed_store(stage, sys.argv[2], sys.argv[3])
"""


def test_memory_stays_flat_whatever_the_size_of_the_input(prepared, tmp_path):
    folder, path, _ = prepared
    lines, source = path.read_bytes().splitlines(), tmp_path / "large.jsonl"
    with source.open("wb") as stream:
        number = 0
        while stream.tell() < INPUT_GB * 1e9:
            for line in lines:
                stream.write(line.replace(b"Document this", b"%d: document this" % number, 1) + b"\n")
                number += 1
    command = [sys.executable, "-c", BUILD, str(source), str(folder / "tokenizer"), str(tmp_path / "cache")]
    begin, seen = time.monotonic(), []
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd(), "TOKENIZERS_PARALLELISM": "false"})
    while child.poll() is None:
        seen.append(sum(memory(p) for p in family(child.pid)))
        time.sleep(0.2)
    assert child.returncode == 0
    seconds, size = time.monotonic() - begin, source.stat().st_size
    thirds = [max(part) / 2**20 for part in np.array_split(np.asarray(seen), 3)]
    tokens = sum(p.stat().st_size for p in Path(tmp_path / "cache").rglob("tokens.bin")) // 4
    source.unlink()
    shutil.rmtree(tmp_path / "cache")
    print(
        f"\nprepare {size / 1e9:.1f} GB ({number:,} conversations, {tokens:,} tokens) with 2 workers: {seconds:.0f} s, "
        f"{size / seconds / 1e6:.1f} MB/s\n  resident memory of all processes, peak of each third of the time: "
        + ", ".join(f"{t:.0f} MiB" for t in thirds)
    )
    assert max(thirds) < 1024
    assert thirds[2] < 1.5 * thirds[0]


def family(pid):
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(process):
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
