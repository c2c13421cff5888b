"""Qwen3: a norm over each query and key head."""

from nemo_cascade.models.families.dense import SwitchedWindow


class Qwen3(SwitchedWindow):
    """Qwen3, dense."""

    model_type = "qwen3"
    class_name = "Qwen3ForCausalLM"
    qk_norm = True
    head_dim_required = True
