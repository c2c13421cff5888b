"""Between an HF config.json and an architecture, by the family that it is of. Import-light: no torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.errors import ModelError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.families import family_named


def read_architecture(folder: Path, family: str | None = None) -> Architecture:
    """Read `folder/config.json`.

    Args:
        folder: HF folder.
        family: where a user's own family is (`model.family`).

    Raises:
        ModelError: no such file, no JSON, or a model that can't be represented (every reason listed).
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            "this is not an HF model folder: it has no config.json",
            value=str(folder),
            mend="name the folder that holds config.json and the weights",
        )
    return architecture_from_hf(read_json_object(path), family)


def architecture_from_hf(config: Mapping[str, Any], family: str | None = None) -> Architecture:
    """Return the architecture that the content of a config.json describes.

    Args:
        config: the content.
        family: where a user's own family is; it reads the configs of its model_type, the shipped ones all others.

    Raises:
        ModelError: listing every field that is missing, malformed or unsupported.
    """
    name = str(config.get("model_type"))
    if family is not None and family_named(family).model_type == name:
        name = family
    return replace(family_named(name).read(config), family=name)


def changed_fields(arch: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields by which the config of `arch` differs from one of its family; {} where they say the same."""
    family = family_named(arch.family)
    before = family.write(family.read(config))
    return {name: value for name, value in family.write(arch).items() if before.get(name) != value}


def unexpected_fields(found: Architecture, expected: Mapping[str, Any]) -> list[str]:
    """Return how an architecture differs from the one that HF config fields describe; nothing where there are none."""
    if not expected:
        return []
    family = family_named(found.family)
    own, wanted = family.write(found), family.write(architecture_from_hf(expected, found.family))
    return [f"{name} {own.get(name)}, not {value}" for name, value in wanted.items() if own.get(name) != value]
