"""Tell what a configuration key means, its type, unit and default, and where a run gets its value from.

nemo-cascade explain rollout.kv_cache_gib
nemo-cascade explain stages.math_rl.optimizer.lr cascade=nano
nemo-cascade explain model                      (a block or a config group: lists what is in it)
"""

import argparse
from dataclasses import asdict

from rich.markup import escape

from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.screen.terminal import out, table, tell
from nemo_cascade.config.reading.compose import ConfigDirs, compose
from nemo_cascade.config.reading.explain import Explanation, explain
from nemo_cascade.config.reading.keys import block_fields
from nemo_cascade.config.schema import RunConfig

TELLS_FACTS = True
TAKES_OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("key", metavar="KEY", help="dotted key, block or config group")
    add_overrides(parser)


def execute(args: argparse.Namespace) -> int:
    """Explain one key; with overrides also the value that they give it."""
    choices = ConfigDirs.of(args.config_dir).groups().get(args.key)
    config, origins = None, None
    if args.overrides:
        config, provenance = compose(args.overrides, args.config_dir)
        origins = provenance["origins"]
    only_a_group = choices and args.key not in block_fields(RunConfig)
    answers = [] if only_a_group else explain(args.key, config, origins)
    tell(group=choices or [], keys=[asdict(answer) for answer in answers])
    if choices:
        out.print(f"[bold]{args.key}[/]=...  config group: {' | '.join(choices)}")
    for answer in answers:
        _show(answer)
    return 0


def _show(answer: Explanation) -> None:
    facts = table(escape(answer.key), "", "")
    facts.show_header = False
    facts.add_row("meaning", escape(answer.meaning))
    facts.add_row("type", escape(answer.type))
    if answer.unit:
        facts.add_row("unit", answer.unit)
    facts.add_row("default", escape(answer.default))
    if answer.origin is not None:
        facts.add_row("value", escape(answer.value or ""))
        facts.add_row("from", escape(answer.origin))
    for name, meaning in answer.fields:
        facts.add_row(f"  .{name}", escape(meaning))
    out.print(facts)
