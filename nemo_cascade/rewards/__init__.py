"""Verifiers and the killable pool that runs them."""
