"""Models and machines that published figures name."""

from functools import lru_cache
from pathlib import Path

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.config.reading import libyaml
from nemo_cascade.planner.shape import Shape, shape_from_sizes

_SHAPES = Path(__file__).parents[1] / "shapes.yaml"
_HARDWARE = Path(__file__).parents[2] / "conf" / "hardware"


@lru_cache(maxsize=1)
def _sizes() -> dict[str, dict[str, object]]:
    read: dict[str, dict[str, object]] = libyaml.parsed(_SHAPES.read_text("utf-8"))
    return read


@lru_cache(maxsize=256)
def shape_named(name: str) -> Shape | None:
    """Return a published model's shape; None where its sizes aren't in shapes.yaml."""
    sizes = _sizes()
    known = str(sizes["aliases"].get(name, name))
    return shape_from_sizes(known, sizes[known]) if known in sizes else None


@lru_cache(maxsize=1)
def hardware_table() -> dict[str, HardwareConfig]:
    """Return the shipped machines by the names that figures have for them."""
    read = [HardwareConfig(**libyaml.parsed(file.read_text("utf-8"))) for file in sorted(_HARDWARE.glob("*.yaml"))]
    return {machine.name: machine for machine in read}


def hardware_named(name: str) -> HardwareConfig | None:
    """Return a shipped machine; None where there is none of that name."""
    return hardware_table().get(name)
