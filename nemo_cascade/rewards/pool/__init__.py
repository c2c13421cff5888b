"""Verifiers in processes that can be killed, each verdict with a deadline."""
