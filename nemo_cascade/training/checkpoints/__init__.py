"""Checkpoints of training: their folders, and what the ranks write into them."""
