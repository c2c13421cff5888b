"""Samples of a stage on the terminal, token by token, with what is trained marked."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.markup import escape
from rich.text import Text

from nemo_cascade.cli.screen.terminal import out
from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import StageBase
from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.config.stages.sft_data import SourceConfig, ThoughtsConfig
from nemo_cascade.data.chat.encode import Mask, Mode, encode_segments
from nemo_cascade.data.chat.rendered import render_prompt, render_samples
from nemo_cascade.data.chat.templates import Segment
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.data.rows.sources import decode_row, read_raw
from nemo_cascade.data.sft.thoughts import with_thoughts
from nemo_cascade.types import Int32

# Two shades in turn: where one token ends and the next begins is seen.
_TRAINED, _CONTEXT = ("black on green", "black on bright_green"), ("default", "dim")
_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Shown:
    """A sample, and where it comes from; or what's wrong with its row."""

    place: str
    token_ids: Int32
    mask: Mask
    problem: str | None = None


def first_samples(config: RunConfig, stage: StageBase, tokenizer: ChatTokenizer, count: int) -> list[Shown]:
    """Take a stage's first samples, from its sources in turn; bad rows among them are shown as such."""
    streams: list[Iterator[Shown]] = []
    for use in stage.reads():
        if use.role == "sft":
            streams.append(_samples(config, use.source, tokenizer, None))
        elif use.role == "pairs":
            streams.append(_pairs(config, use.source, tokenizer))
        elif use.role == "prompts":
            mode = stage.asked()[use.key].mode
            modes: tuple[Mode, ...] = ("think", "no_think") if mode == "half" else (mode,)
            streams += [_samples(config, use.source, tokenizer, mode) for mode in modes]
    found: list[Shown] = []
    for round_ in itertools.zip_longest(*streams):
        found += [sample for sample in round_ if sample is not None]
        if len(found) >= count:
            break
    return found[:count]


def print_sample(sample: Shown, tokenizer: ChatTokenizer) -> None:
    """Print a sample: trained tokens coloured and between brackets, which a pipe keeps."""
    if sample.problem is not None:
        out.print(f"[bold]{escape(sample.place)}[/]  [red]bad row[/]: {escape(sample.problem)}\n", soft_wrap=True)
        return
    trained, total = int(sample.mask.sum()), len(sample.token_ids)
    out.print(f"[bold]{escape(sample.place)}[/]  {total} tokens, {trained} trained", soft_wrap=True)
    text, turn, before = Text(), 0, False
    for piece, is_trained in _pieces(sample, tokenizer):
        if is_trained != before:
            text.append("⟦" if is_trained else "⟧", "bold green")
        text.append(piece, (_TRAINED if is_trained else _CONTEXT)[turn % 2])
        turn, before = turn + 1, is_trained
    text.append("⟧" if before else "", "bold green")
    out.print(text, soft_wrap=True)
    out.print()


def _pieces(sample: Shown, tokenizer: ChatTokenizer) -> Iterator[tuple[str, bool]]:
    """Yield the text of each token; tokens that only together make a character stay together."""
    waiting: list[int] = []
    ids, mask = sample.token_ids.tolist(), sample.mask.tolist()
    for i, (token, trained) in enumerate(zip(ids, mask, strict=True)):
        waiting.append(token)
        text = tokenizer.decode(waiting)
        border = i + 1 == len(ids) or mask[i + 1] != trained
        if border or not text.endswith(_BROKEN):
            yield text, bool(trained)
            waiting = []


def _samples(config: RunConfig, source: DataFileConfig, tokenizer: ChatTokenizer, mode: Mode | None) -> Iterator[Shown]:
    """Yield a source's samples; with a mode, its prompts."""
    schema = schema_of(source.schema, source.columns)
    for raw in read_raw(local_path(source, config.data_dir)):
        row, problem = decode_row(raw, schema)
        rendered: list[list[Segment]] = []
        problems = [problem] if problem is not None else []
        if problem is None and mode is None:
            thoughts = source.thoughts if isinstance(source, SourceConfig) else ThoughtsConfig()
            rendered, problems = render_samples(tokenizer, with_thoughts(row, thoughts, tokenizer))
        elif problem is None and mode is not None:
            segments, problems = render_prompt(tokenizer, row, mode)
            rendered = [segments] if not problems else []
        if problems:
            yield Shown(raw.place, np.empty(0, np.int32), np.empty(0, np.uint8), "; ".join(problems))
        for ids, mask in encode_segments(tokenizer, rendered):
            yield Shown(raw.place, ids, mask)


def _pairs(config: RunConfig, source: DataFileConfig, tokenizer: ChatTokenizer) -> Iterator[Shown]:
    """Yield the two texts of each pair; what is marked is what a policy learns, or where a score is read."""
    from nemo_cascade.data.pairs import SIDES, For, read_pairs

    of: For = "scores" if isinstance(source, PairDataConfig) else "policy"
    schema = schema_of(source.schema, source.columns)
    for raw in read_raw(local_path(source, config.data_dir)):
        (pair,) = read_pairs([raw], tokenizer, schema, of)
        told = "neither response is preferred" if pair.tied else pair.broken or pair.unusable
        if told:
            yield Shown(raw.place, np.empty(0, np.int32), np.empty(0, np.uint8), told)
            continue
        for side, (ids, mask) in zip(SIDES, pair.encoded, strict=True):
            yield Shown(f"{raw.place} {side}", ids, mask)
