"""Build the packed store of an SFT stage: read, check, tokenise, pack; streaming, deterministic, atomic."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from blake3 import blake3

from nemo_cascade.config.stage import SftStage, SourceConfig
from nemo_cascade.data import store
from nemo_cascade.data.blend import epoch_entries
from nemo_cascade.data.chat import (
    NO_REPLY,
    TEMPLATE_VERSION,
    ChatTokenizer,
    Mask,
    conversation_problems,
    encode_segments,
    load_tokenizer,
    render,
)
from nemo_cascade.data.layout import padded_length
from nemo_cascade.data.packing import Packing, pack_best_fit
from nemo_cascade.data.sources import Problems, RawRow, decode_row, hash_files, read_raw
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int32

_CHUNK = 256


@dataclass
class _Sample:
    raw: RawRow
    token_ids: Int32 | None = None
    mask: Mask | None = None
    broken: str | None = None
    untrainable: bool = False


@dataclass
class _Tally:
    """What is known of the samples so far: a few numbers each, never their tokens."""

    rows: int = 0
    lengths: array[int] = field(default_factory=lambda: array("q"))
    trained: array[int] = field(default_factory=lambda: array("q"))
    source: array[int] = field(default_factory=lambda: array("q"))
    broken: Problems = field(default_factory=Problems)
    overlong: Problems = field(default_factory=Problems)
    untrainable: Problems = field(default_factory=Problems)


def build_packed_store(
    stage: SftStage, tokenizer_path: str | Path, folder: str | Path, *, document_multiple: int = 1
) -> store.PackedStore:
    """Return the packed data of a stage, built under `folder` unless it is there already.

    A row has `messages` and may have `mode` (think | no_think) for the whole conversation; without either the
    flags follow the replies (`chat.render`).

    Args:
        stage: its data sources and rules, and seq_length.
        tokenizer_path: HF folder.
        folder: holds the packed data of any number of stages.
        document_multiple: documents are padded to a multiple of this (2 x context parallel size).

    Raises:
        DataError: files that aren't there; rows that are no conversations; samples that are too long, or dropped
            samples over the limit. Counts all and names the first twenty by file and line.
    """
    tokenizer = load_tokenizer(tokenizer_path)
    rules = _rules(stage, tokenizer, document_multiple)
    key = blake3(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:32]
    final = Path(folder) / key
    if final.is_dir():
        return store.open_store(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=final.parent))
    building.chmod(0o755)  # mkdtemp closes it to others; ranks may run as another user
    try:
        _write(building, stage, tokenizer, rules, key)
        try:
            building.rename(final)
        except OSError:
            # Another process built the same at the same time: by its key it holds the same bytes.
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return store.open_store(final)


def _rules(stage: SftStage, tokenizer: ChatTokenizer, document_multiple: int) -> dict[str, Any]:
    """Everything that the store's bytes depend on."""
    return {
        "format": store.FORMAT_VERSION,
        "template": TEMPLATE_VERSION,
        "tokenizer": tokenizer.fingerprint,
        "sources": [
            {
                "files": hash_files(s.path),
                **{name: getattr(s, name) for name in ("domain", "repeat", "max_samples", "max_tokens", "weight")},
            }
            for s in stage.data.sources
        ],
        "domain_weights": stage.data.domain_weights,
        "seq_length": stage.seq_length,
        "document_multiple": document_multiple,
        "overlong": stage.data.overlong,
        "max_bad_fraction": stage.data.max_bad_fraction,
        "seed": stage.data.shuffle_seed,
        "packing_order": stage.data.packing_order,
    }


def _write(folder: Path, stage: SftStage, tokenizer: ChatTokenizer, rules: dict[str, Any], key: str) -> None:
    tally = _Tally()
    with (folder / store.TOKENS).open("wb") as tokens, (folder / store.MASK).open("wb") as mask:
        for number, source in enumerate(stage.data.sources):
            for sample in _samples(source, tokenizer):
                _admit(sample, number, tally, rules, tokens, mask)
        for stream in (tokens, mask):
            stream.flush()
            os.fsync(stream.fileno())
    _refuse_bad(tally, rules)
    lengths = np.frombuffer(tally.lengths, np.int64)
    data, of_source = stage.data, np.frombuffer(tally.source, np.int64)
    entries = epoch_entries(of_source, lengths, data.sources, rules["seed"], data.domain_weights)
    multiple = rules["document_multiple"]
    padded = (-(-lengths // multiple) * multiple)[entries]
    packing = pack_best_fit(padded, stage.seq_length, rules["seed"], data.packing_order)
    np.save(folder / store.SAMPLE_OFFSETS, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(folder / store.PACK_SAMPLES, entries[packing.samples])
    np.save(folder / store.PACK_OFFSETS, packing.offsets)
    stats = _statistics(data.sources, tally, packing, np.bincount(entries, minlength=len(lengths)))
    sizes = {name: (folder / name).stat().st_size for name in store.FILES}
    whole = {"format": store.FORMAT_VERSION, "key": key, "rules": rules, **stats, "bytes": sizes}
    (folder / store.STATS).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def _samples(source: SourceConfig, tokenizer: ChatTokenizer) -> Iterator[_Sample]:
    """Stream a source's rows, tokenised a chunk at a time."""
    rows = read_raw(source.path, source.max_samples)
    while chunk := list(itertools.islice(rows, _CHUNK)):
        samples, conversations = [_Sample(raw) for raw in chunk], []
        for sample in samples:
            row, sample.broken = decode_row(sample.raw)
            if sample.broken:
                continue
            problems = conversation_problems(row.get("messages"), row.get("mode"))
            sample.untrainable = problems == [NO_REPLY]
            if not problems:
                conversations.append((sample, render(row["messages"], row.get("mode"))))
            elif not sample.untrainable:
                sample.broken = "; ".join(problems)
        encoded = encode_segments(tokenizer, [segments for _, segments in conversations])
        for (sample, _), (ids, mask) in zip(conversations, encoded, strict=True):
            sample.token_ids, sample.mask = ids, mask
        yield from samples


def _admit(
    sample: _Sample, source: int, tally: _Tally, rules: dict[str, Any], tokens: IO[bytes], mask: IO[bytes]
) -> None:
    """Write a sample, or note why it isn't fit."""
    tally.rows += 1
    place = sample.raw.place
    if sample.broken:
        tally.broken.add(f"{place}: {sample.broken}")
        return
    if sample.untrainable or sample.token_ids is None or sample.mask is None:
        tally.untrainable.add(f"{place}: {NO_REPLY}")
        return
    length = len(sample.token_ids)
    if padded_length(length, rules["document_multiple"]) > rules["seq_length"]:
        tally.overlong.add(f"{place}: {length} tokens")
        return
    tokens.write(sample.token_ids.tobytes())
    mask.write(sample.mask.tobytes())
    tally.lengths.append(length)
    tally.trained.append(int(sample.mask.sum()))
    tally.source.append(source)


def _refuse_bad(tally: _Tally, rules: dict[str, Any]) -> None:
    tally.broken.refuse("rows are no training conversations", "mend or remove the rows")
    if rules["overlong"] == "refuse":
        tally.overlong.refuse(
            f"samples are longer than seq_length={rules['seq_length']}",
            "raise seq_length, or set data.overlong=drop and data.max_bad_fraction",
        )
    bad = tally.overlong.total + tally.untrainable.total
    if bad > rules["max_bad_fraction"] * tally.rows:
        worst = Problems()
        worst.merge(tally.untrainable)
        worst.merge(tally.overlong)
        worst.refuse(
            f"of {tally.rows} samples can't be trained on ({tally.untrainable.total} without an assistant turn, "
            f"{tally.overlong.total} longer than seq_length={rules['seq_length']}; allowed share "
            f"{rules['max_bad_fraction']})",
            "mend the rows, raise seq_length, or raise data.max_bad_fraction",
        )
    if not tally.lengths:
        raise DataError("no sample to train on", value=f"{tally.rows} rows read", mend="check data.sources")


def _statistics(
    sources: Sequence[SourceConfig], tally: _Tally, packing: Packing, repeats: Iterable[int]
) -> dict[str, Any]:
    lengths, trained = np.frombuffer(tally.lengths, np.int64), np.frombuffer(tally.trained, np.int64)
    times = np.asarray(repeats)
    domain_of = np.asarray([s.domain for s in sources])[np.frombuffer(tally.source, np.int64)]
    names = sorted({s.domain for s in sources})

    def count(chosen: Any) -> dict[str, int]:
        return {
            "samples": int(chosen.sum()),
            "samples_per_epoch": int(times[chosen].sum()),
            "tokens_per_epoch": int((lengths * times)[chosen].sum()),
            "trained_tokens_per_epoch": int((trained * times)[chosen].sum()),
        }

    edges = [2**k for k in range(4, int(lengths.max()).bit_length() + 1)]
    bins = np.searchsorted(edges, lengths)
    return {
        **count(np.ones(len(lengths), bool)),
        "packs": len(packing),
        "fill": packing.fill,
        "domains": {name: count(domain_of == name) for name in names},
        "length_histogram": {f"<={edge}": int((bins == i).sum()) for i, edge in enumerate(edges)},
        "rows_read": tally.rows,
        "dropped_overlong": tally.overlong.total,
        "dropped_untrainable": tally.untrainable.total,
        "first_dropped": [*tally.untrainable.first, *tally.overlong.first],
    }
