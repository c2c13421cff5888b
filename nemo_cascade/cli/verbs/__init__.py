"""Verbs of the command, one per file."""
