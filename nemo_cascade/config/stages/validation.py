"""Conversations that are measured on while a stage trains on others."""

from pydantic import PositiveInt

from nemo_cascade.config.base import block
from nemo_cascade.config.data import DataFileConfig


@block
class ValidationConfig(DataFileConfig):
    """Rows as an SFT stage has them, never trained on: their loss is measured between the steps."""

    every: PositiveInt = 50
    """Steps between measurements; the last step always has one. All rows are measured each time."""
    patience: PositiveInt | None = None
    """The stage ends where so many measurements in a row were no better than the best before them; null: it doesn't."""
