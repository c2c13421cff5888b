"""Write a small cascade of your own from your rows, check it, and show three samples as the model will see them.

nemo-cascade init my_run --model smol --data rows.jsonl
nemo-cascade init my_run --model path/to/hf_folder --data rows.jsonl --reward my_reward.py:score
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out, tell
from nemo_cascade.errors import CascadeError, ConfigError, DataError

if TYPE_CHECKING:
    from nemo_cascade.cli.first_run.recipe import FirstRun
    from nemo_cascade.cli.first_run.sizes import Lengths
    from nemo_cascade.cli.screen.samples import Shown
    from nemo_cascade.config.schema import RunConfig

TELLS_FACTS = True
TAKES_OVERRIDES = False

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_LOOKED_AT = 2000
_SHOWN = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="of the run; its files go into a folder of this name")
    parser.add_argument("--model", required=True, help="nano, smol, an HF folder, or OWNER/NAME of the hub")
    parser.add_argument("--data", type=Path, metavar="ROWS", help="JSONL or parquet: prompts with replies to imitate")
    parser.add_argument("--prompts", type=Path, metavar="ROWS", help="rows to answer in RL (default: those of --data)")
    parser.add_argument("--reward", metavar="WHO", help="my_reward.py:score, package.module:score, or a shipped kind")
    parser.add_argument("--gpu", action="store_true", help="for a GPU, whether or not this machine has one")


def execute(args: argparse.Namespace) -> int:
    """Deal the rows out, write the files, measure the rows, write the numbers that fit, check, show."""
    from nemo_cascade.cli.first_run.recipe import NANO, write
    from nemo_cascade.cli.first_run.sizes import Lengths, Sizes, choose
    from nemo_cascade.cli.preflight import architecture_of, preflight

    _check(args)
    run = _first_run(args)
    # Numbers that hold for any rows, until theirs are known.
    write(run, Sizes(64, 1, 1, 16, 64, 1, 2, 1), Lengths([], [], []))
    ready = preflight(run.overrides, run.conf, fresh_folder=True, elsewhere=True)
    config = ready.config
    told: list[Shown] = []
    if _model_is_here(config):
        lengths, told = _measure(run, config)
        positions = architecture_of(config).max_position_embeddings
        rows = run.data.count if run.data is not None and run.sft else 0
        asked = run.asked.count if run.asked is not None else 0
        slow = not run.gpu and run.model != NANO
        sizes = choose(lengths, rows, asked, positions, large=run.gpu, slow=slow)
        write(run, sizes, lengths)
        preflight(run.overrides, run.conf, fresh_folder=True, elsewhere=True)
    _tell(run, config, told)
    return 0


def _check(args: argparse.Namespace) -> None:
    problems: list[CascadeError | str] = []
    if not _NAME.fullmatch(args.name):
        problems.append(
            CascadeError("no name of a run", value=args.name, limit="letters, digits, _ and -", mend="my_run")
        )
    if args.data is None and args.prompts is None:
        problems.append(
            CascadeError("nothing to train on", mend="--data rows.jsonl (or --prompts rows.jsonl --reward WHO)")
        )
    if args.data is None and args.prompts is not None and args.reward is None:
        problems.append(
            CascadeError("prompts need somebody who judges the answers", mend="--reward my_reward.py:score")
        )
    if Path(args.name).exists() and not (Path(args.name) / "conf").is_dir() and any(Path(args.name).iterdir()):
        problems.append(CascadeError("the folder holds something else", value=args.name, mend="choose another NAME"))
    if problems:
        raise ConfigError(problems)


def _first_run(args: argparse.Namespace) -> FirstRun:
    from nemo_cascade.cli.first_run.recipe import NANO, SMOL, FirstRun, model_folder
    from nemo_cascade.cli.first_run.rows import deal
    from nemo_cascade.config.checks.host import gpu_present
    from nemo_cascade.config.plugins import anchored, is_plugin, load_plugin

    reward = None if args.reward is None else anchored(args.reward)
    if reward is not None and is_plugin(reward):
        load_plugin(reward)
    if args.model not in (NANO, SMOL):
        model_folder(args.model)
    folder = Path(args.name)
    data = None if args.data is None else deal(args.data, folder / "data")
    prompts = None if args.prompts is None else deal(args.prompts, folder / "data" / "prompts")
    if reward is None and data is not None and not data.has_replies:
        raise DataError(
            "the rows have no replies to imitate, and nobody judges answers to them",
            value=f"{args.data}: {data.columns.told}",
            limit="rows with replies, or a reward",
            mend="--reward my_reward.py:score",
        )
    return FirstRun(
        name=args.name,
        folder=folder,
        model=args.model,
        data=data,
        prompts=prompts,
        reward=reward,
        gpu=args.gpu or gpu_present(),
        template=_template(args.model),
    )


def _template(model: str) -> str:
    """Return the chat format: the model's own where it has one, else ChatML."""
    from nemo_cascade.cli.first_run.recipe import NANO, SMOL, model_folder
    from nemo_cascade.data.chat.templates.install import OWN, chat_template_of

    if model == SMOL:
        return OWN
    folder = None if model == NANO else model_folder(model)
    if folder is not None and folder.is_dir() and chat_template_of(folder) is None:
        return "chatml"
    return "chatml" if model == NANO else OWN


def _model_is_here(config: RunConfig) -> bool:
    return config.model.source != "hf" or (Path(config.model.path or "") / "config.json").is_file()


def _measure(run: FirstRun, config: RunConfig) -> tuple[Lengths, list[Shown]]:
    """Return the lengths of the first rows, and samples to show.

    Raises:
        DataError: rows that can't be rendered, by their own file and line.
    """
    from nemo_cascade.cascade.inputs import prepared_tokenizer
    from nemo_cascade.cli.first_run.sizes import Lengths
    from nemo_cascade.cli.screen.samples import first_samples
    from nemo_cascade.data.chat.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(prepared_tokenizer(config))
    found = {name: first_samples(config, stage, tokenizer, _LOOKED_AT) for name, stage in config.stages.items()}
    samples, prompts = found.get("sft", []), found.get("rl", [])
    _refuse_bad_rows(run, [*samples, *prompts])
    lengths = Lengths(
        samples=[len(sample.token_ids) for sample in samples],
        replies=[int(sample.mask.sum()) for sample in samples],
        prompts=[len(sample.token_ids) for sample in prompts],
    )
    return lengths, (samples or prompts)[:_SHOWN]


def _refuse_bad_rows(run: FirstRun, samples: list[Shown]) -> None:
    places: dict[tuple[str, int], str] = {}
    for dealt in (run.data, run.prompts):
        places |= {} if dealt is None else {_absolute(place): origin for place, origin in dealt.places.items()}
    bad = dict.fromkeys(
        f"{places.get(_split(sample.place), sample.place)}: {sample.problem}" for sample in samples if sample.problem
    )
    if bad:
        shown = "".join(f"\n    {line}" for line in list(bad)[:20])
        more = f"\n    ... and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise DataError(
            f"{len(bad)} rows can't be used:{shown}{more}\n ", mend="mend or remove them, then the same command"
        )


def _absolute(place: tuple[str, int]) -> tuple[str, int]:
    return str(Path(place[0]).absolute()), place[1]


def _split(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return (str(Path(file).absolute()), int(line)) if line.isdigit() else (place, 0)


def _tell(run: FirstRun, config: RunConfig, samples: list[Shown]) -> None:
    from nemo_cascade.cli.screen.samples import print_sample
    from nemo_cascade.data.chat.tokenizer import load_tokenizer

    for what, dealt in (("data", run.data), ("prompts", run.prompts)):
        if dealt is not None:
            held = f"{dealt.held} held out to measure on"
            out.print(f"{what}: {escape(dealt.columns.told)}; {dealt.count} rows to train on, {held}", soft_wrap=True)
    if samples:
        from nemo_cascade.cascade.inputs import prepared_tokenizer

        tokenizer = load_tokenizer(prepared_tokenizer(config))
        trained = "trained tokens are ⟦marked⟧" if run.sft else "prompts of RL, nothing of them is trained"
        out.print(f"template {tokenizer.template.name}; {trained}\n", soft_wrap=True)
        for sample in samples:
            print_sample(sample, tokenizer)
    command = f"nemo-cascade run cascade={run.name} --config-dir {run.conf}"
    out.print(f"written: {escape(str(run.cascade))}", soft_wrap=True)
    if not samples:
        fetch = f"nemo-cascade fetch cascade={run.name} --config-dir {run.conf}"
        out.print(f"the model isn't here yet: {escape(fetch)}, then `init` again for numbers that fit", soft_wrap=True)
    tell(
        cascade=str(run.cascade),
        next=command,
        rows={} if run.data is None else {"train": run.data.count, "held_out": run.data.held},
    )
    out.print(f"next: {escape(command)}", soft_wrap=True)
