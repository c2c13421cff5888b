"""HF configs and weights to Megatron-Core models and back."""
