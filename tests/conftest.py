"""Marks `tests/` as importable, so that tests share what they make their data with."""
