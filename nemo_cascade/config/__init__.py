"""Typed configuration: import-light (no torch, megatron, vllm or ray), strict, frozen."""
