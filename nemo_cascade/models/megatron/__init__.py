"""Megatron-Core: the model that an architecture becomes, and what it needs to be built and run."""
