"""Build the packed store of an SFT stage: tokenise what isn't yet, admit, blend, pack; deterministic, atomic."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from nemo_cascade.config.logging import LoggingConfig
from nemo_cascade.config.stages.sft import SftStage
from nemo_cascade.data.chat.encode import ChatTokenizer, load_tokenizer
from nemo_cascade.data.hygiene.screen import SCREENS, screen
from nemo_cascade.data.prepared import make_folder
from nemo_cascade.data.rows.files import hash_files
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.quarantine import QUARANTINE, bad_rows, write_bad_rows
from nemo_cascade.data.sft import store
from nemo_cascade.data.sft.admit import Admitted, admit
from nemo_cascade.data.sft.blend import epoch_entries
from nemo_cascade.data.sft.packing import Packing, pack_best_fit
from nemo_cascade.data.sft.summary import SUMMARY, histograms, summary_page
from nemo_cascade.data.sft.tokenised import SHARDS, Part, TokenisedSet, make_shards, plan_parts
from nemo_cascade.storage.hashes import hash_recipe
from nemo_cascade.storage.manifest import describe
from nemo_cascade.types import Int64


def build_packed_store(
    stage: SftStage,
    tokenizer_path: str | Path,
    folder: str | Path,
    *,
    logging_config: LoggingConfig | None = None,
) -> store.PackedStore:
    """Return the packed data of a stage, built under `folder` as far as it isn't there already.

    A row has `messages`, and may have `tools` and `mode` (think | no_think) for the whole conversation; without a mode
    it follows the replies. The template is the tokenizer's (`data/chat/templates`).

    Args:
        stage: its data sources and rules, and seq_length.
        tokenizer_path: HF folder.
        folder: holds the tokenised and packed data of any number of stages; sets of the hub are fetched beside it.
        logging_config: how progress is shown.

    Raises:
        DataError: files that aren't there; rows that are no conversations; samples that are too long, or dropped
            samples over the limit; tokenised data that was damaged. Counts all and names the first twenty.
    """
    tokenizer, root = load_tokenizer(tokenizer_path), Path(folder)
    sources = [replace(s, path=local_path(s, root.parent)) for s in stage.data.sources]
    data = replace(stage.data, sources=sources)
    stage = replace(stage, data=data)
    parts = plan_parts(data.sources, tokenizer)
    make_shards(parts, tokenizer, root / SHARDS, data.workers, logging_config or LoggingConfig())
    rules = _rules(stage, tokenizer, parts)
    key = hash_recipe(rules)[:32]

    def write(building: Path) -> None:
        _write(building, stage, TokenisedSet(parts, root / SHARDS), root / SCREENS, rules, key)

    make_folder(root / key, write)
    return store.open_store(root / key)


def _rules(stage: SftStage, tokenizer: ChatTokenizer, parts: Sequence[Part]) -> dict[str, Any]:
    """Everything that the packs depend on."""
    data = stage.data
    names = ("domain", "repeat", "max_samples", "max_tokens", "weight")
    return {
        "format": store.FORMAT_VERSION,
        "tokenizer": tokenizer.fingerprint,
        "sources": [
            {
                "shards": blake3(" ".join(p.key for p in parts if p.source == number).encode()).hexdigest()[:32],
                **{name: getattr(s, name) for name in names},
            }
            for number, s in enumerate(data.sources)
        ],
        "domain_weights": data.domain_weights,
        "seq_length": stage.seq_length,
        "overlong": data.overlong,
        "max_bad_fraction": data.max_bad_fraction,
        "seed": data.shuffle_seed,
        "packing_order": data.packing_order,
        "dedup": asdict(data.dedup),  # type: ignore[call-overload]
        "decontaminate": {
            "against": [hash_files(path) for path in data.decontaminate.against],
            "ngram": data.decontaminate.ngram,
            "rule": data.decontaminate.rule,
        },
    }


def _write(
    folder: Path, stage: SftStage, tokenised: TokenisedSet, screens: Path, rules: dict[str, Any], key: str
) -> None:
    data = stage.data
    admitted = admit(tokenised, screen(tokenised, data, screens), data, stage.seq_length)
    lengths = admitted.lengths
    entries = epoch_entries(admitted.source_of, lengths, data.sources, rules["seed"], data.domain_weights)
    chosen = lengths[entries]
    packing = pack_best_fit(chosen, stage.seq_length, rules["seed"], data.packing_order)
    shards = {shard.folder.name: shard for shard in tokenised.shards}
    numbers = {name: number for number, name in enumerate(shards)}
    samples = np.empty(len(lengths), store.SAMPLE)
    samples["begin"], samples["length"] = tokenised.samples["begin"][admitted.samples], lengths
    shard_of_part = np.asarray([numbers[part.key] for part in tokenised.parts])
    samples["shard"] = shard_of_part[tokenised.part_of[admitted.samples]]
    np.save(folder / store.SAMPLES, samples)
    write_bad_rows(folder / QUARANTINE, bad_rows(tokenised, admitted.overlong))
    np.save(folder / store.PACK_SAMPLES, entries[packing.samples])
    np.save(folder / store.PACK_OFFSETS, packing.offsets)
    times = np.bincount(entries, minlength=len(lengths))
    loads = np.add.reduceat(chosen[packing.samples], packing.offsets[:-1])
    whole = {
        "format": store.FORMAT_VERSION,
        "key": key,
        "rules": rules,
        **_statistics(stage, admitted, packing, times),
        **histograms(lengths, times, loads, stage.seq_length),
        "rows_read": tokenised.rows,
        **admitted.report,
        "shards": store.describe_shards(list(shards.values())),
        "files": describe(folder, store.FILES),
    }
    (folder / store.STATS).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    (folder / SUMMARY).write_text(summary_page(whole), encoding="utf-8")


def _statistics(stage: SftStage, admitted: Admitted, packing: Packing, times: Int64) -> dict[str, Any]:
    lengths, trained = admitted.lengths, admitted.trained
    domain_of = np.asarray([s.domain for s in stage.data.sources])[admitted.source_of]
    names = sorted({s.domain for s in stage.data.sources})

    def count(chosen: Any) -> dict[str, int]:
        return {
            "samples": int(chosen.sum()),
            "samples_per_epoch": int(times[chosen].sum()),
            "tokens_per_epoch": int((lengths * times)[chosen].sum()),
            "trained_tokens_per_epoch": int((trained * times)[chosen].sum()),
        }

    return {
        **count(np.ones(len(lengths), bool)),
        "packs": len(packing),
        "fill": packing.fill,
        "domains": {name: count(domain_of == name) for name in names},
    }
