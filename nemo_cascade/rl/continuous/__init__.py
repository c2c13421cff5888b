"""Rollouts without batches: engines that never wait for the slowest, weights that change under what is under way."""
