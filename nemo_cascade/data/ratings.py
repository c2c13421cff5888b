"""Read and tokenise rated responses: what a reward model of several attributes learns from (arXiv 2406.11704, 3.1)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.data.chat.conversation import foreign_mark
from nemo_cascade.data.chat.rendered import checked_row
from nemo_cascade.data.chat.tokenizer import ChatTokenizer, load_tokenizer
from nemo_cascade.data.pairs import Tally, finish, is_number, prompt_key, refuse_shared_prompts, rules_of
from nemo_cascade.data.prepared import make_folder
from nemo_cascade.data.responses import ResponseStore, StoreWriter, open_responses
from nemo_cascade.data.rows.columns import Schema
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.raw_row import RawRow
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.data.rows.sources import decode_row, read_raw
from nemo_cascade.data.scored import encode_scored, scored_answer
from nemo_cascade.data.sft.tokenise import row_chunks
from nemo_cascade.losses.units import RATING
from nemo_cascade.storage.hashes import hash_recipe

FORMAT_VERSION = 1
"""Raised with every change of what a row is read as, too."""


def build_rated_stores(
    data: PairDataConfig,
    attributes: Sequence[str],
    seq_length: int,
    tokenizer_path: str | Path,
    folder: str | Path,
) -> tuple[ResponseStore, ResponseStore]:
    """Return the tokenised replies to train on and to hold out, built under `folder` unless they are there already.

    A row has `messages` that end with the reply, and a number for at least one of the attributes. An attribute that it
    lacks, or that is null or -100 (NeMo-Aligner's mark), isn't rated. Thinking is taken out of the reply.

    Args:
        data: files and rules.
        attributes: names, in the order of the head's outputs.
        seq_length: most tokens of question and reply.
        tokenizer_path: HF folder.
        folder: holds the tokenised data of any number of stages.

    Raises:
        DataError: rows that are no rated replies, or too long, over the limit; prompts that are both trained on and
            held out.
    """
    tokenizer, schema = load_tokenizer(tokenizer_path), schema_of(data.schema, data.columns)
    held_out = replace(data, path=data.holdout_path, split=data.holdout_split or data.split)
    stores = []
    for part in (data, held_out):
        path = local_path(part, Path(folder).parent)
        rules = rules_of("ratings", FORMAT_VERSION, data, tokenizer, schema, seq_length, path)
        rules |= {"attributes": list(attributes)}
        final = Path(folder) / hash_recipe(rules)[:32]
        make_folder(final, _filling(path, rules, tokenizer, schema))
        stores.append(open_responses(final))
    refuse_shared_prompts(stores[0], stores[1], data.holdout_path)
    return stores[0], stores[1]


def _filling(path: str, rules: Mapping[str, Any], tokenizer: ChatTokenizer, schema: Schema) -> Any:
    return lambda building: _write(building, path, rules, tokenizer, schema)


def _write(folder: Path, path: str, rules: Mapping[str, Any], tokenizer: ChatTokenizer, schema: Schema) -> None:
    tally, attributes = Tally(), rules["attributes"]
    with StoreWriter(folder, 1, [RATING + name for name in attributes]) as writer:
        for chunk in row_chunks(read_raw(path)):
            read = list(_read(chunk, tokenizer, schema, attributes, tally))
            encoded = encode_scored(tokenizer, [(messages, answer) for _, messages, answer, _ in read])
            for (raw, messages, _, ratings), ids in zip(read, encoded, strict=True):
                if len(ids) > rules["seq_length"]:
                    tally.leave_out(raw, "overlong", f"{len(ids)} tokens")
                    continue
                mask = np.zeros(len(ids), np.uint8)
                mask[-1] = 1
                writer.add(prompt_key(messages), [(ids, mask, ratings)])
        finish(writer, tally, rules, path, "replies", "rated replies")


def _read(
    chunk: Sequence[RawRow], tokenizer: ChatTokenizer, schema: Schema, attributes: Sequence[str], tally: Tally
) -> Iterator[tuple[RawRow, list[Mapping[str, Any]], str, list[float]]]:
    """Yield the question, the answer and the ratings of each row that has them; note why the others haven't."""
    for raw in chunk:
        tally.rows += 1
        row, broken = decode_row(raw, schema)
        problems = [broken] if broken else []
        messages, answer, ratings = [], "", []
        if not problems:
            checked, problems = checked_row(tokenizer, row)
            *messages, last = checked.get("messages") or [{}]
            answer = scored_answer(str(last.get("content") or ""))
            problems += tokenizer.template.prompt({"messages": messages}, "no_think")[1]
            if last.get("role") != "assistant" or last.get("tool_calls") or not answer.strip():
                problems.append("doesn't end with an assistant's text")
            if found := tokenizer.control_in(answer):
                problems.append(f"the reply holds the control token {found}")
            if mark := foreign_mark(answer):
                problems.append(f"the reply {mark}")
            given = [row.get(name) for name in attributes]
            ratings = [v if is_number(v) and v != -100 else math.nan for v in given]
            problems += [
                f"`{name}` is no number but {value!r}"
                for name, value in zip(attributes, given, strict=True)
                if value is not None and not is_number(value)
            ]
            if all(np.isnan(ratings)):
                problems.append(f"has none of {', '.join(attributes)}")
        if problems:
            tally.leave_out(raw, "broken", "; ".join(problems))
        else:
            yield raw, messages, answer, ratings
