"""Post-training of the Nemotron family on Megatron-Core, vLLM and Ray."""

__version__ = "0.1.0"
