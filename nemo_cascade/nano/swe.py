"""Nano software engineering: two tiny files, an issue about one of them, and a SEARCH/REPLACE repair.

A careful repair edits the file that the issue names. A careless one edits whichever file is shown first, which is the
right one every other time: reinforcement learning has the other half to earn.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.nano.math import Split, split_of

NAMES = ("down", "far", "left", "near", "right", "up")
# fmt: off
PHRASES = (
    "Repair:", " must be x", "\n### ", "### ", ".py\ndef ", "(x):\n    return x", ".py\n<<<<<<< SEARCH\n    return x",
    "\n=======\n    return x", "\n>>>>>>> REPLACE",
)
# fmt: on
"""Texts that are one token each."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Two files with one function each, of which the one in `names[broken]` must add or take another number.

    Attributes:
        names: of the functions and their files, in the order shown.
        terms: what each function adds, signed.
        broken: which one the issue is about.
        wanted: what it must add, signed.
    """

    names: tuple[str, str]
    terms: tuple[int, int]
    broken: int
    wanted: int

    @property
    def text(self) -> str:
        """What is asked: the issue, then the files."""
        files = "\n".join(f"### {path}\n{text.rstrip()}" for path, text in self.files.items())
        return f"Repair: {self.names[self.broken]} must be x{self.wanted:+d}.\n{files}"

    @property
    def files(self) -> dict[str, str]:
        """The files as they are."""
        return {_path(n): _file(n, t) for n, t in zip(self.names, self.terms, strict=True)}

    @property
    def fixed_files(self) -> dict[str, str]:
        """The broken file as it should be."""
        name = self.names[self.broken]
        return {_path(name): _file(name, self.wanted)}

    @property
    def canonical(self) -> str:
        """The task's name, whatever else is shown."""
        return f"{self.names[self.broken]} {self.terms[self.broken]} {self.wanted}"

    @property
    def split(self) -> Split:
        """Whose task it is."""
        return split_of(self.canonical)

    def edit(self, index: int) -> str:
        """Write the repair of one of the files."""
        search, replace = (f"    return x{term:+d}" for term in (self.terms[index], self.wanted))
        path = _path(self.names[index])
        return f"### {path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE"


def _path(name: str) -> str:
    return f"{name}.py"


def _file(name: str, term: int) -> str:
    return f"def {name}(x):\n    return x{term:+d}\n"


def draw_repair(rng: Random, split: Split) -> Repair:
    """Draw a task of a split."""
    while True:
        first, second = rng.sample(NAMES, 2)
        one, other, wanted = (rng.choice((1, -1)) * number for number in rng.sample(range(10, 100), 3))
        repair = Repair((first, second), (one, other), rng.randrange(2), wanted)
        if repair.split == split:
            return repair


def swe_prompt(repair: Repair) -> dict[str, Any]:
    """Make a prompt row: issue and files, and the golden patch for the verifier."""
    return {
        "messages": [{"role": "user", "content": repair.text}],
        "problem": repair.text.partition("\n")[0],
        "files": repair.files,
        "fixed_files": repair.fixed_files,
    }


def swe_sample(repair: Repair, rng: Random, careless_fraction: float) -> dict[str, Any]:
    """Make a training conversation; the reply doesn't think."""
    index = 0 if rng.random() < careless_fraction else repair.broken
    reply = {"role": "assistant", "content": repair.edit(index)}
    return {"messages": [{"role": "user", "content": repair.text}, reply]}
