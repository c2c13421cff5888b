"""Data of the nano twin of Nemotron-Cascade 2."""
