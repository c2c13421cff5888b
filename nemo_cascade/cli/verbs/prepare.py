"""Make the packed data of a cascade's stages, or look at samples as the model will see them.

nemo-cascade prepare cascade=nano
nemo-cascade prepare cascade=nano stage=sft1 --show 3
"""

import argparse
import difflib
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.cli.screen.terminal import out, table, tell
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.errors import CascadeError, ConfigError

TELLS_FACTS = True
TAKES_OVERRIDES = True
_STAGE = "stage="


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_overrides(parser)
    parser.add_argument("--show", type=int, metavar="N", help="print N samples of stage=NAME; builds nothing")


def execute(args: argparse.Namespace) -> int:
    """Build and summarise, or show."""
    named = [word.removeprefix(_STAGE) for word in args.overrides if word.startswith(_STAGE)]
    overrides = [word for word in args.overrides if not word.startswith(_STAGE)]
    # A cluster's data may be made on a machine that couldn't run it.
    config = preflight(overrides, args.config_dir, fresh_folder=True, elsewhere=True).config
    unknown = [name for name in named if name not in config.stages]
    if unknown or (args.show is not None and (len(named) != 1 or args.show < 1)):
        what = "no such stage" if unknown else "--show takes a number of samples, and one stage=NAME"
        near = [*difflib.get_close_matches(unknown[0], config.stages, n=1)] if unknown else named[:1]
        mend = f"stage={[*near, next(iter(config.stages))][0]}" + (" --show 3" if args.show is not None else "")
        value = ", ".join(named) or f"--show {args.show} without a stage"
        raise ConfigError([CascadeError(what, value=value, limit=", ".join(config.stages), mend=mend)])
    from nemo_cascade.cascade.inputs import prepared_tokenizer

    tokenizer = prepared_tokenizer(config)
    if args.show is not None:
        _show(config, named[0], tokenizer, args.show)
    else:
        for name in named or config.stages:
            _build(config, name, tokenizer)
    return 0


def _show(config: RunConfig, name: str, tokenizer_folder: Path, count: int) -> None:
    from nemo_cascade.cli.screen.samples import first_samples, print_sample
    from nemo_cascade.data.chat.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_folder)
    out.print(f"stage {escape(name)}, template {tokenizer.template.name}; trained tokens are ⟦marked⟧\n")
    for sample in first_samples(config, config.stages[name], tokenizer, count):
        print_sample(sample, tokenizer)


def _build(config: RunConfig, name: str, tokenizer: Path) -> None:
    from nemo_cascade.data.rows.quarantine import QUARANTINE
    from nemo_cascade.data.sft.summary import SUMMARY
    from nemo_cascade.stages.kinds import kind_of

    stage = config.stages[name]
    prepared = kind_of(stage).prepare(config, name, stage, tokenizer, Path(config.data_dir) / "tokenised")
    stats = prepared.stats
    tell(**{name: {"told": prepared.told, "folder": prepared.folder, **stats}})
    if "domains" not in stats or prepared.folder is None:
        out.print(f"{escape(name)}: {escape(prepared.told)}\n")
        return
    shown = table(f"{escape(name)}: {prepared.told}", "domain", "samples#", "per epoch#", "tokens#", "trained#")
    for domain, counted in [*stats["domains"].items(), ("all", stats)]:
        tokens, trained = counted["tokens_per_epoch"], counted["trained_tokens_per_epoch"]
        shown.add_row(escape(domain), str(counted["samples"]), str(counted["samples_per_epoch"]), str(tokens),
                      f"{trained / max(1, tokens):.1%}")  # fmt: skip
    out.print(shown)
    dropped = {key.removeprefix("dropped_"): stats[key] for key in stats if key.startswith("dropped_") and stats[key]}
    told = ", ".join(f"{count} {kind}" for kind, count in dropped.items()) or "none"
    out.print(f"of {stats['rows_read']} rows dropped: {told}")
    out.print(f"page: {escape(str(prepared.folder / SUMMARY))}", soft_wrap=True)
    if dropped:
        out.print(f"bad rows: {escape(str(prepared.folder / QUARANTINE))}", soft_wrap=True)
    out.print()
