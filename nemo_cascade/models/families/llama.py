"""Llama: the plain dense decoder."""

from nemo_cascade.models.families.dense import DenseFamily


class Llama(DenseFamily):
    """Llama 1 to 3, and what calls itself so (SmolLM2)."""

    model_type = "llama"
    class_name = "LlamaForCausalLM"
