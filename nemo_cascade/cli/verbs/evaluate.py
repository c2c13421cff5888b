"""Score an HF model folder on the suites of a cascade, as its stages are scored.

nemo-cascade evaluate runs/nano/stages/03-math_rl/hf cascade=nano
nemo-cascade evaluate runs/8b --stage math_rl --with ns --benchmarks aime24:64 aime25:64 gpqa:8 --yarn 2 --dry
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli import external
from nemo_cascade.cli.arguments import add_overrides
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.cli.screen.terminal import out, table, tell

TELLS_FACTS = True
TAKES_OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, metavar="HF_FOLDER", help="config.json, safetensors, tokenizer")
    add_overrides(parser)
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs of engines and verifiers here")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the scores of every sample, as JSON")
    external.add_arguments(parser)


def execute(args: argparse.Namespace) -> int:
    """Start engines and verifiers, score every domain, print the table; or have a public tool do it."""
    if external.wanted(args):
        return external.execute(args)
    quoted = "'" + str(args.folder.absolute()).replace("'", "\\'") + "'"
    of_folder = ["model.source=hf", f"model.path={quoted}"]
    config = preflight([*args.overrides, *of_folder], args.config_dir, fresh_folder=True).config
    from nemo_cascade.cascade.folder import RunFolder
    from nemo_cascade.cascade.plan import plan_stages
    from nemo_cascade.nano.prepare import prepare_data
    from nemo_cascade.stages.evaluate import evaluate, scorable_suites
    from nemo_cascade.stages.roles import Roles

    prepare_data(config)
    plan = plan_stages(config, RunFolder(Path(config.runs_dir) / config.name))
    trained = {p.name: p.folder / "hf" for p in plan if not p.moves_policy and (p.folder / "hf").is_dir()}
    suites = scorable_suites(config, trained)
    for domain in sorted(set(config.evaluation.suites) - set(suites)):
        out.print(f"{escape(domain)} is left out: the run {escape(config.name)} has not trained its reward model yet")
    with _logs(args.logs) as logs, Roles(config, logs) as roles:
        scores = evaluate(config, roles, args.folder, 0, args.folder.name, suites, trained)
    if args.save is not None:
        scores.save(args.save)
    tell(model=str(args.folder), scores=scores.summary())
    named = {
        "score": "score#",
        "stderr": "standard error#",
        "pass_at_k": "pass@k#",
        "mode_obeyed": "in the mode asked#",
    }
    shown = table(escape(str(args.folder)), "domain", *named.values(), "prompts#", "k#")
    for domain, line in scores.summary().items():
        shares = ("-" if line[key] is None else f"{line[key]:.4f}" for key in named)
        shown.add_row(domain, *shares, str(line["n"]), str(line["samples"]))
    out.print(shown)
    return 0


@contextmanager
def _logs(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
    else:
        with tempfile.TemporaryDirectory(prefix="nemo-cascade-evaluate-") as folder:
            yield Path(folder)
