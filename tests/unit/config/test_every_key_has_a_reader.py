"""No dead options: every key is read from its own block, not just from anything that has such an attribute."""

import ast
from pathlib import Path

import nemo_cascade
from nemo_cascade.config.reading import keys
from nemo_cascade.config.schema import EnvironmentConfig, RunConfig
from tests.support.readers import Readers

PACKAGE = Path(nemo_cascade.__file__).parent

# What a verifier takes.
_VERIFIERS = "nemo_cascade.config.verifiers."
# Showing a value is not using it.
_NO_READERS = ("cli/verbs/plan.py", "cli/screen/", "papers/")


def blocks(block=RunConfig, found=None):
    """Return all blocks that a run's configuration is made of, by name: field -> the blocks that it holds."""
    found = {} if found is None else found
    if block.__name__ not in found:
        fields = {field.name: keys._inner(field.annotation) for field in keys.fields_of(block)}
        held = {name: [kind for kind in kinds if keys.is_block(kind)] for name, kinds in fields.items()}
        found[block.__name__] = (block, {name: {kind.__name__ for kind in kinds} for name, kinds in held.items()})
        for kinds in held.values():
            for kind in kinds:
                blocks(kind, found)
    return found


def test_every_key_of_the_schema_has_a_reader():
    known = blocks()
    readers = Readers({name: fields for name, (_, fields) in known.items()})
    files = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
    trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in files.items()}
    readers.learn(trees.values())
    for name, tree in trees.items():
        if not name.startswith(_NO_READERS):
            readers.read(tree)
    # What a verifier takes, its constructor takes: test_reward_settings.py. The environment is asked for by role.
    # Where a machine's figures are from is said for the reader of a plan: showing it is its use.
    unread = {
        (name, field)
        for name, (block, fields) in known.items()
        if block is not EnvironmentConfig and not block.__module__.startswith(_VERIFIERS)
        for field in fields
        if not readers.has(name, field)
    }
    assert unread == {("HardwareConfig", "source")}


def test_a_key_that_only_another_block_s_namesake_is_read_for_is_found_out():
    readers = Readers({"One": {"path": set(), "two": {"Two"}}, "Two": {"path": set()}})
    tree = ast.parse("def f(one: One) -> None:\n    for two in one.two.values():\n        open(two.path)\n")
    readers.learn([tree])
    readers.read(tree)
    assert readers.has("Two", "path")
    assert readers.has("One", "two")
    assert not readers.has("One", "path")
