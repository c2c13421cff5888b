"""Names that LeetCode and LiveCodeBench put in front of every Python program, so that solutions needn't import them.

LiveCodeBench's `import_string` (lcb_runner/evaluation/testing_util.py) imports everything of some modules, and then
the modules themselves; LeetCode's own environment does likewise. Solutions written for either rely on it.
"""

import builtins
import functools
import importlib
import re
import sys
from collections.abc import Collection

_STARRED = (
    "typing string re datetime collections heapq bisect copy math random statistics itertools functools operator io "
    "json"
)
_MODULES = f"{_STARRED} sys os time"
_ALIASES = {"np": "numpy", "pd": "pandas", "sp": "scipy", "plt": "matplotlib", "tf": "tensorflow", "nx": "networkx"}
_WELL_KNOWN = (
    "numpy",
    "pandas",
    "scipy",
    "sympy",
    "torch",
    "sklearn",
    "pytest",
    "hypothesis",
    "tensorflow",
    "networkx",
)
# What tests judge by, or wrap values in, where whoever wrote them has left out the import.
_OF_TESTS = {
    "pytest": "approx raises",
    "unittest": "TestCase",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "numpy": "allclose array_equal",
    "numpy.testing": "assert_allclose assert_almost_equal assert_array_almost_equal assert_array_equal",
}
_SOURCES_OF_TESTS = {name: (module, name) for module, names in _OF_TESTS.items() for name in names.split()}
_SLOW = ("datetime", "statistics")  # no module that is loaded before a program starts: a variable's name isn't enough
_FUNCTIONS_NAMED_AS_MODULES = ("bisect", "copy", "datetime")
_WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*")

Source = tuple[str, str]
"""A module, and the name in it; the empty name stands for the module itself."""


@functools.lru_cache(maxsize=1)
def provided_sources() -> dict[str, Source]:
    """Return name -> where it comes from, for all names that may be used without an import."""
    sources: dict[str, Source] = {}
    for module in _STARRED.split():
        loaded = importlib.import_module(module)
        public = getattr(loaded, "__all__", None) or [name for name in vars(loaded) if not name.startswith("_")]
        sources |= {name: (module, name) for name in public if not hasattr(builtins, name)}
    return sources | {name: (name, "") for name in _MODULES.split()}


def source_of(name: str) -> Source | None:
    """Return where a name comes from that a test uses and nobody defines: the list above, or a library."""
    if name in _ALIASES:
        return (_ALIASES[name], "")
    found = provided_sources().get(name) or _SOURCES_OF_TESTS.get(name)
    return found or ((name, "") if name in sys.stdlib_module_names or name in _WELL_KNOWN else None)


@functools.lru_cache(maxsize=16)  # a program runs once for each of its inputs
def provided_for(program: str) -> tuple[tuple[str, str, str], ...]:
    """Return (name, module, name in it) of what a Python program seems to use of the list without defining it.

    The program is only looked at, never compiled: it is hostile. What is provided in vain does no harm, for the
    program's own definitions come later.
    """
    words = set(_WORD.findall(program))
    known = provided_sources()
    found = [(name, *_of(name, program)) for name in sorted(words & known.keys() - _own(program, words))]
    return tuple(r for r in found if r[1] not in _SLOW or re.search(rf"(?<![\w.]){r[0]}[ \t]*[.(]", program))


def _of(name: str, program: str) -> Source:
    if name in _FUNCTIONS_NAMED_AS_MODULES and re.search(rf"(?<![\w.]){name}\(", program):
        return (name, name)
    return provided_sources()[name]


def _own(program: str, words: Collection[str]) -> set[str]:
    """Return words that the program imports or defines at its beginning, which would be loaded in vain."""
    imported = re.findall(r"^(?:import|from)\s[^\n]*", program, re.MULTILINE)
    defined = re.findall(r"^(?:def|class)[ \t]+(\w+)", program, re.MULTILINE)
    return {word for line in imported if "*" not in line for word in _WORD.findall(line)} & set(words) | set(defined)
