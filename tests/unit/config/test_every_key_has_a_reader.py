"""No dead options: every key of the schema is read by name somewhere in the program."""

import ast
from pathlib import Path

import nemo_cascade
from nemo_cascade.config.reading.keys import leaves

PACKAGE = Path(nemo_cascade.__file__).parent

# Declaring, checking, printing and recording a value is not using it.
_NO_READERS = {
    f"config/{name}.py"
    for name in ("model", "rollout", "stage", "schema", "sandbox", "validate", "validate_judges", "slurm")
}


def names_read():
    """Return every attribute that the program reads (`x.attribute`), by name."""
    read = set()
    for file in PACKAGE.rglob("*.py"):
        where = file.relative_to(PACKAGE).as_posix()
        if where in _NO_READERS or where.startswith("cli/"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    return read


def test_every_key_of_the_schema_has_a_reader():
    read = names_read()
    leaf_keys = [leaf.key for leaf in leaves()]
    # A block counts too: nobody reads what nobody passes on.
    wanted = {".".join(key.split(".")[:depth]) for key in leaf_keys for depth in range(1, key.count(".") + 2)}
    names = {key: key.rpartition(".")[2] for key in wanted if not key.endswith("*")}
    assert {key for key, name in names.items() if name not in read} == set()
