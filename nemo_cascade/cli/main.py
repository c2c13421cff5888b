"""The command `nemo-cascade`: one verb per file, and what its endings look like.

exit codes: 0 done, for a run: decided to its end, whatever the gates said; 1 a defect of the program (with traceback);
2 refused or failed with a reason; 3 the gate holds the cascade until `nemo-cascade decide`; 75 paused before its job's
wall time, the same command goes on; 130 interrupted.
"""

import argparse
import ast
import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from nemo_cascade import __version__
from nemo_cascade.cli.screen import terminal
from nemo_cascade.cli.screen.refusals import refusal
from nemo_cascade.errors import CascadeError
from nemo_cascade.sandbox.inside.foreign import Attempt
from nemo_cascade.telemetry.console import err

VERBS = (
    "init",
    "run",
    "submit",
    "view",
    "decide",
    "fork",
    "experiment",
    "plan",
    "prepare",
    "profile",
    "fetch",
    "explain",
    "report",
    "evaluate",
    "export",
    "convert",
    "prune",
    "doctor",
    "completion",
)
"""Each is a file of `verbs/`, or of a folder there; the list of verbs says them in this order."""
_FOLDERS = {"convert": "models", "prune": "models"}

DEFECT, REFUSED, INTERRUPTED = 1, 2, 130


def build_parser(wanted: str | None) -> argparse.ArgumentParser:
    """Return the parser with all verbs, of which only the wanted one is imported: the others' code is not needed.

    Args:
        wanted: a verb; None: the list of verbs is all that is asked for.
    """
    parser = argparse.ArgumentParser(
        prog="nemo-cascade",
        description="Post-train models stage by stage.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nemo-cascade {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        about = _docstring(name)
        verb = verbs.add_parser(name, help=about.strip().splitlines()[0], description=about, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        if name == wanted:
            module = importlib.import_module(".".join(("nemo_cascade.cli.verbs", *_place(name))))
            verb.add_argument("--debug", action="store_true", help="show tracebacks and debug messages")
            if module.TELLS_FACTS:
                verb.add_argument("--json", action="store_true", help="one object on one line, for programs (README)")
            module.configure(verb)
            verb.set_defaults(execute=module.execute, takes_overrides=module.TAKES_OVERRIDES)
    return parser


def _docstring(verb: str) -> str:
    """Return what a verb's file says of it, without running it."""
    source = Path(__file__).parent.joinpath("verbs", *_place(verb)).with_suffix(".py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source), clean=False) or ""


def _place(verb: str) -> tuple[str, ...]:
    """Return the folder of a verb's file below `verbs/`, where it lies in one, and its name."""
    return (_FOLDERS[verb], verb) if verb in _FOLDERS else (verb,)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; overrides may stand before, between and after the options."""
    parser = build_parser(next((word for word in arguments if word in VERBS), None))
    args, rest = parser.parse_known_args(list(arguments))
    unknown = [word for word in rest if word.startswith("-") or not args.takes_overrides]
    if unknown:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    if args.takes_overrides:
        args.overrides = [*args.overrides, *rest]
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    terminal.open_standard_streams()
    args = parse(sys.argv[1:] if arguments is None else arguments)
    terminal.set_up_logging(args.debug)
    if not getattr(args, "json", False):
        return _run(args)
    facts = terminal.for_programs()
    try:
        code = _run(args)
        facts.write(args.verb, code)
        return code
    finally:
        terminal.out.facts = None


def _run(args: argparse.Namespace) -> int:
    try:
        with Attempt(Exception, but=(CascadeError, OSError)) as attempt:
            return int(args.execute(args))
    except BrokenPipeError:
        # The reader of our output went away (`| head`).
        return DEFECT
    except (CascadeError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        for told in _hidden_by(error):
            terminal.show_error(told if isinstance(told, CascadeError) else refusal(told))
        return REFUSED
    except KeyboardInterrupt:
        err.print("interrupted; `nemo-cascade run` with the same arguments goes on from the last checkpoint")
        return INTERRUPTED
    traceback.print_exception(attempt.error)
    err.print("[bold red]defect[/]: this is an error of the program, not of your configuration")
    return DEFECT


def _hidden_by(error: CascadeError | OSError) -> list[CascadeError | OSError]:
    """Return an error behind those that it came on top of: on a full disk, what ended a run is followed by more.

    An error that another was made of (`raise ... from`) is told by that one.
    """
    chain: list[CascadeError | OSError] = [error]
    seen: BaseException | None = error
    while seen is not None:
        seen = None if seen.__cause__ is not None or seen.__suppress_context__ else seen.__context__
        if isinstance(seen, CascadeError | OSError):
            chain.insert(0, seen)
    return chain


if __name__ == "__main__":
    sys.exit(main())
