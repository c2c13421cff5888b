"""Print a script that completes verbs, groups and keys in bash, zsh or fish.

eval "$(nemo-cascade completion bash)"                  # or zsh; in ~/.bashrc, ~/.zshrc
nemo-cascade completion fish | source
"""

import argparse
from collections.abc import Iterator

from nemo_cascade.cli.screen.terminal import out

TELLS_FACTS = False
TAKES_OVERRIDES = False

_BASH = """\
_nemo_cascade() {{
  local word="${{COMP_LINE:0:COMP_POINT}}"; word="${{word##*[[:space:]]}}"
  local words="{words}"
  [[ $COMP_CWORD -eq 1 ]] && words="{verbs}"
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "${{word##*=}}"))
  # What stands before a break of words is on the line already.
  local before="${{word%"${{word##*[=:]}}"}}"
  [[ $before == *[=:] ]] && COMPREPLY=("${{COMPREPLY[@]#"$before"}}")
  [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
}}
complete -F _nemo_cascade nemo-cascade
"""
_SCRIPTS = {
    "bash": _BASH,
    "zsh": "autoload -Uz bashcompinit && bashcompinit\n" + _BASH,
    "fish": "complete -c nemo-cascade -n __fish_use_subcommand -f -a '{verbs}'\n"
    "complete -c nemo-cascade -n 'not __fish_use_subcommand' -a '{words}'\n",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("shell", choices=list(_SCRIPTS), help="which shell's")


def execute(args: argparse.Namespace) -> int:
    """Print the script."""
    from nemo_cascade.cli.main import VERBS

    script = _SCRIPTS[args.shell].format(verbs=" ".join(VERBS), words=" ".join(_words()))
    out.file.write(script)
    return 0


def _words() -> Iterator[str]:
    """Yield choices of groups, and keys; those of stages and suites by the names of the shipped nano cascade."""
    from nemo_cascade.config.reading.compose import ConfigDirs, compose
    from nemo_cascade.config.reading.origins import flatten
    from nemo_cascade.config.reading.provenance import config_values

    for group, choices in ConfigDirs.of(None).groups().items():
        yield from (f"{group}={choice}" for choice in choices)
    config, _ = compose(["cascade=nano"])
    yield from (f"{key}=" for key in flatten(config_values(config)))
    yield from ("--dry", "--config-dir", "--debug", "--help")
