"""YAML parsed by libyaml, by OmegaConf and so by Hydra too: the same documents and errors, several times as fast.

Every command composes some fifty files, and PyYAML's Python parser took half of that time.
"""

from functools import cache
from types import ModuleType
from typing import Any

import omegaconf._utils
import yaml

SafeLoader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
"""PyYAML's safe loader."""


def parsed(text: str) -> Any:
    """Return the one document of a text; None of an empty one.

    Raises:
        yaml.YAMLError: it is no YAML, or more than one document.
    """
    return yaml.load(text, SafeLoader)


def install() -> None:
    """Put it in the place of the loader that OmegaConf derives its own from. Idempotent."""
    utils: Any = omegaconf._utils
    if utils.yaml is not yaml:
        return
    with_libyaml = ModuleType("yaml")
    with_libyaml.__dict__.update({**yaml.__dict__, "SafeLoader": SafeLoader})
    utils.yaml = with_libyaml
    utils.get_yaml_loader = cache(utils.get_yaml_loader)  # it makes a class at every call
