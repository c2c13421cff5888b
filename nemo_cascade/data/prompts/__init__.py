"""The prompts of RL and evaluation, and the order they are drawn in."""
