"""Verbs that work on models as folders, without a run."""
