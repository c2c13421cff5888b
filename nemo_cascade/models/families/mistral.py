"""Mistral: Llama's layers, with a sliding window unless the config says that there is none."""

from collections.abc import Mapping
from typing import Any

from nemo_cascade.models.families.dense import DenseFamily


class Mistral(DenseFamily):
    """Mistral 7B from version 0.2 on, and its relatives without a window."""

    model_type = "mistral"
    class_name = "MistralForCausalLM"

    def has_window(self, config: Mapping[str, Any]) -> bool:
        """Tell whether there is a window: unless `sliding_window` is null, which has to be said."""
        return "sliding_window" not in config or config["sliding_window"] is not None

    def own_fields(self) -> dict[str, Any]:
        """Return what its config has to say beside the sizes."""
        return {"sliding_window": None}
