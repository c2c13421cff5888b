"""Cut a model down by what matters least on your conversations: whole layers, channels of its MLPs and hidden state.

What it lost comes back by distillation from the model that it was made of: an SFT stage with `teacher`.

nemo-cascade prune models/Qwen3-8B out/pruned --data rows.jsonl --layers 30 --ffn-width 9216
nemo-cascade prune models/Nano-12B-v2 out/pruned --data rows.jsonl --layers 56 --attention-layers 4 --hidden-size 4480
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out, table, tell
from nemo_cascade.config.checks.host import gpu_present
from nemo_cascade.config.plugins import anchored
from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.models.hf_config import read_architecture

if TYPE_CHECKING:
    from nemo_cascade.models.architecture import Architecture
    from nemo_cascade.models.importance import ChannelScores, Removal
    from nemo_cascade.models.pruning import Kept

TELLS_FACTS = True
TAKES_OVERRIDES = False

_RECORD = "pruning.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", type=Path, metavar="HF_FOLDER", help="config.json, safetensors, tokenizer")
    parser.add_argument("target", type=Path, metavar="NEW_FOLDER", help="must not exist")
    parser.add_argument("--data", type=Path, required=True, metavar="ROWS", help="conversations, as SFT reads them")
    parser.add_argument("--layers", type=int, metavar="N", help="layers that stay")
    parser.add_argument("--attention-layers", type=int, default=1, metavar="N",
                        help="of a hybrid: attention layers that stay at least (1)")  # fmt: skip
    parser.add_argument("--ffn-width", type=int, metavar="N", help="width of every dense MLP (intermediate_size)")
    parser.add_argument("--hidden-size", type=int, metavar="N", help="channels of the hidden state")
    parser.add_argument("--samples", type=int, default=1024, metavar="N", help="first rows that are used (1024)")
    parser.add_argument("--tokens", type=int, default=4096, metavar="N", help="of a row, what is beyond is cut (4096)")
    parser.add_argument("--family", type=anchored, metavar="FILE.py:NAME", help="a family of models of your own")


def execute(args: argparse.Namespace) -> int:
    """Measure, cut and write."""
    from nemo_cascade.models.importance import Measuring, calibration_rows
    from nemo_cascade.models.pruning import Wanted, cut_problems, prune_model

    wanted = Wanted(args.layers, args.attention_layers, args.ffn_width, args.hidden_size)
    problems: list[CascadeError | str] = []
    arch = None
    try:
        arch = read_architecture(args.source, args.family)
        problems += cut_problems(arch, wanted)
    except CascadeError as no_model:
        problems.append(no_model)
    if not args.data.exists():
        problems.append(CascadeError("no such file", value=args.data, mend="--data conversations.jsonl"))
    if args.target.exists():
        problems.append(CascadeError("the target exists", value=args.target, mend="name a new folder"))
    for name in ("samples", "tokens"):
        if (number := getattr(args, name)) < 2:
            problems.append(CascadeError(f"too few {name}", value=number, limit="at least 2", mend=f"--{name} 64"))
    if problems or arch is None:
        raise ConfigError(problems)
    rows = calibration_rows(args.data, args.source, args.samples, args.tokens)
    tokens = sum(len(row) for row in rows)
    out.print(f"{arch.described()}; measured on {len(rows)} rows, {tokens} tokens")
    measuring = Measuring(args.source, arch, rows, "cuda" if gpu_present() else "cpu")
    removals = measuring.removals(wanted, lambda one: out.print(f"layer {one.layer} is left out"))
    gone = [one.layer for one in removals]
    scores = None
    if wanted.ffn_width is not None or wanted.hidden_size is not None:
        scores = measuring.channels(gone)
    kept = _kept(arch, gone, scores, args.ffn_width, args.hidden_size)
    measured = {"rows": len(rows), "tokens": tokens, "data": str(args.data)}
    record = _record(arch, removals, scores, kept) | {"source": str(args.source), "measured_on": measured}
    new = prune_model(args.source, args.target, arch, kept, {_RECORD: json.dumps(record) + "\n"})
    _show(arch, removals, scores, kept)
    tell(folder=str(args.target), model=new.described(), layers_kept=list(kept.layers), layers_left_out=gone)
    out.print(f"{new.described()}: {escape(str(args.target))}, scores in its {_RECORD}", soft_wrap=True)
    return 0


def _kept(
    arch: Architecture, gone: Sequence[int], scores: ChannelScores | None, ffn_width: int | None, hidden: int | None
) -> Kept:
    from nemo_cascade.models.pruning import Kept, largest

    layers = [number for number in range(len(arch.layers)) if number not in gone]
    ffn = {}
    if scores is not None and ffn_width is not None:
        ffn = {number: largest(score, ffn_width) for number, score in scores.ffn.items()}
    return Kept(layers, largest(scores.hidden, hidden) if scores is not None and hidden is not None else None, ffn)


def _record(
    arch: Architecture, removals: Sequence[Removal], scores: ChannelScores | None, kept: Kept
) -> dict[str, Any]:
    """Return what was kept and by which scores, JSON-like."""
    record: dict[str, Any] = {
        "model": arch.described(),
        "layers_kept": list(kept.layers),
        "layers_left_out": [{"layer": one.layer, "logit_mse": one.logit_mse} for one in removals],
    }
    if scores is not None and kept.hidden is not None:
        record["hidden"] = {"kept": kept.hidden.tolist(), "mean_absolute": scores.hidden.tolist()}
    if scores is not None and kept.ffn:
        record["ffn"] = {
            number: {"kept": kept.ffn[number].tolist(), "mean_absolute": score.tolist()}
            for number, score in scores.ffn.items()
        }
    return record


def _show(arch: Architecture, removals: Sequence[Removal], scores: ChannelScores | None, kept: Kept) -> None:
    """Print the scores: of every layer, and what the kept channels have of the sum of all."""
    from nemo_cascade.models.pruning import kind_of_layer

    if removals:
        shown = table("layers", "layer#", "holds", "logit MSE without it alone#", "MSE when it went#", "kept")
        went = {one.layer: one.logit_mse[one.layer] for one in removals}
        for number, alone in removals[0].logit_mse.items():
            last = f"{went[number]:.4g}" if number in went else ""
            shown.add_row(
                str(number), kind_of_layer(arch.layers[number]), f"{alone:.4g}", last, "no" if number in went else "yes"
            )
        out.print(shown)
    if scores is None:
        return
    shown = table("channels", "of", "kept#", "all#", "share of activation kept#")
    widths = [(f"MLP of layer {number}", kept.ffn.get(number), score) for number, score in scores.ffn.items()]
    for name, chosen, score in (("hidden state", kept.hidden, scores.hidden), *widths):
        if chosen is not None:
            share = float(score[chosen].sum() / score.sum())
            shown.add_row(name, str(len(chosen)), str(len(score)), f"{share:.4f}")
    out.print(shown)
