"""Measure what a recipe or a plan is tuned by: how often a model solves each prompt of an RL stage; this machine.

nemo-cascade profile prompts cascade=nano --stage math_rl --model runs/nano/stages/02-sft2/hf --samples 16
nemo-cascade profile machine --into my_conf/hardware/mine.yaml      # then: plan --config-dir my_conf hardware=mine
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.machine_profile import profile_machine
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.cli.screen.terminal import out, table, tell
from nemo_cascade.config.stages.grpo import as_grpo
from nemo_cascade.data.prompts.profiles import PassRate
from nemo_cascade.errors import ConfigError

TELLS_FACTS = True
TAKES_OVERRIDES = True
_BARS = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("what", choices=["prompts", "machine"], help="prompts: pass rates; machine: its speed")
    add_overrides(parser)
    parser.add_argument("--stage", metavar="NAME", help="stage of the cascade whose prompts are asked")
    parser.add_argument("--model", type=Path, metavar="HF_FOLDER", help="who is asked")
    parser.add_argument("--into", type=Path, default=Path("machine.yaml"), metavar="FILE", help="of `machine`")
    parser.add_argument("--samples", type=int, default=16, metavar="G", help="answers to each prompt (default: 16)")


def execute(args: argparse.Namespace) -> int:
    """Ask, judge, and write the profile; what an earlier call of the same kind has done is kept."""
    if args.what == "machine":
        return profile_machine(args.into)
    if args.stage is None or args.model is None:
        raise ConfigError(["profile prompts needs --stage NAME and --model HF_FOLDER"])
    if args.samples < 1:
        raise ConfigError([f"--samples {args.samples}: at least 1"])
    quoted = "'" + str(args.model.absolute()).replace("'", "\\'") + "'"
    of_model = ["model.source=hf", f"model.path={quoted}"]
    config = preflight([*args.overrides, *of_model], args.config_dir, fresh_folder=True).config
    known = {name: asking for name, stage in config.stages.items() if (asking := as_grpo(stage)) is not None}
    if args.stage not in known:
        raise ConfigError([f"--stage {args.stage} is no RL stage of the cascade (these are: {', '.join(known)})"])
    stage = known[args.stage]
    from nemo_cascade.nano.prepare import prepare_data
    from nemo_cascade.stages.profile import profile_prompts
    from nemo_cascade.stages.roles import Roles

    prepare_data(config)
    with tempfile.TemporaryDirectory(prefix="nemo-cascade-profile-") as logs, Roles(config, Path(logs)) as roles:
        path, rates = profile_prompts(config, roles, stage, args.model, args.samples)
    tell(file=str(path), rates={prompt: found.rate for prompt, found in rates.items()})
    _show(args.stage, rates)
    out.print(escape(str(path)))
    return 0


def _show(stage: str, rates: Mapping[str, PassRate]) -> None:
    """Print how many prompts have which pass rate."""
    known = [found.rate for found in rates.values() if found.rate is not None]
    counts = Counter(min(_BARS, int(rate * _BARS)) for rate in known)
    shown = table(escape(f"{stage}: {len(rates)} prompts"), "pass rate", "prompts#")
    for bar in range(_BARS + 1):
        label = f"{bar / _BARS:.3f} up to {(bar + 1) / _BARS:.3f}" if bar < _BARS else "all passed"
        shown.add_row(label, str(counts[bar]))
    if unjudged := len(rates) - len(known):
        shown.add_row("not judged", str(unjudged))
    out.print(shown)
