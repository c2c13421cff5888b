"""Megatron-Core training of one rank."""
