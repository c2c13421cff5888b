"""Qwen2 and Qwen2.5: biases in the query, key and value projections."""

from nemo_cascade.models.families.dense import SwitchedWindow


class Qwen2(SwitchedWindow):
    """Qwen2, Qwen2.5, and what was distilled into them."""

    model_type = "qwen2"
    class_name = "Qwen2ForCausalLM"
    qkv_bias = True
